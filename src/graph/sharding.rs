use std::fmt;

/// How an array lies over the devices of a mesh, in the form that XLA's partitioner reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sharding {
    /// Whole on every device.
    Replicated,
    /// Cut into tiles: `tiles[i]` along dimension `i`, and, when there is one entry more, that many
    /// copies of each tile. `devices` lists the device of each tile in row-major order.
    Tiled { tiles: Vec<usize>, devices: Vec<usize>, replicate_last: bool },
}

impl fmt::Display for Sharding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sharding::Replicated => f.write_str("{replicated}"),
            Sharding::Tiled { tiles, devices, replicate_last } => {
                let join = |v: &[usize]| v.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                write!(f, "{{devices=[{}]{}", join(tiles), join(devices))?;
                f.write_str(if *replicate_last { " last_tile_dim_replicate}" } else { "}" })
            }
        }
    }
}

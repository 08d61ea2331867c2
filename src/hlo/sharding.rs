use super::proto::OpSharding;
use crate::graph::Sharding;

const REPLICATED: i32 = 0;
const TUPLE: i32 = 2;
const TILED: i32 = 3;

impl From<&Sharding> for OpSharding {
    fn from(sharding: &Sharding) -> OpSharding {
        match sharding {
            Sharding::Replicated => OpSharding { r#type: REPLICATED, ..Default::default() },
            Sharding::Tiled { tiles, devices, replicate_last } => OpSharding {
                r#type: TILED,
                tile_assignment_dimensions: tiles.iter().map(|&n| n as i64).collect(),
                tile_assignment_devices: devices.iter().map(|&n| n as i64).collect(),
                replicate_on_last_tile_dim: *replicate_last,
                ..Default::default()
            },
        }
    }
}

/// The sharding of a tuple of arrays; those without one are replicated.
pub(super) fn tuple_sharding(elements: &[Option<Sharding>]) -> OpSharding {
    let element = |s: &Option<Sharding>| OpSharding::from(s.as_ref().unwrap_or(&Sharding::Replicated));
    OpSharding {
        r#type: TUPLE,
        tuple_shardings: elements.iter().map(element).collect(),
        ..Default::default()
    }
}

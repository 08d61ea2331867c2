use std::collections::BTreeMap;

use prost::Message;

use super::ffi::{self, Struct};
use super::{Error, Plugin, PluginKind, Status, proto};

/// The form a program comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgramFormat {
    /// A serialized `HloModuleProto`.
    Hlo,
    /// StableHLO: MLIR text or bytecode.
    Mlir,
}

impl ProgramFormat {
    /// The C API's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            ProgramFormat::Hlo => "hlo",
            ProgramFormat::Mlir => "mlir",
        }
    }
}

/// A program to compile.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    pub format: ProgramFormat,
    pub code: &'a [u8],
}

impl<'a> Program<'a> {
    /// A serialized `HloModuleProto`.
    pub fn hlo(code: &'a [u8]) -> Self {
        Program { format: ProgramFormat::Hlo, code }
    }

    /// A StableHLO module as MLIR text or bytecode.
    pub fn mlir(code: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Program { format: ProgramFormat::Mlir, code: code.as_ref() }
    }

    /// The C form; it borrows the code. The pointer to it is `mut` only because results use the same struct.
    pub(super) fn to_ffi(self) -> ffi::PJRT_Program {
        let format = self.format.name();
        ffi::PJRT_Program {
            struct_size: ffi::PJRT_Program::SIZE,
            code: self.code.as_ptr().cast_mut().cast(),
            code_size: self.code.len(),
            format: format.as_ptr().cast(),
            format_size: format.len(),
            ..Struct::zeroed()
        }
    }
}

/// The value of an XLA flag, in the type that XLA declares for it.
#[derive(Debug, Clone, PartialEq)]
pub enum FlagValue {
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
}

macro_rules! from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for FlagValue {
            fn from(value: $type) -> Self {
                FlagValue::$variant(value.into())
            }
        })*
    };
}

from!(bool => Bool, i64 => Int, f64 => Float, &str => Str, String => Str);

/// How to compile a program. The default is one device and no flags.
#[derive(Debug, Clone, PartialEq)]
pub struct CompileOptions {
    /// Copies of the program that run on different data (1 or more).
    pub num_replicas: usize,
    /// Devices that one copy is divided over (1 or more).
    pub num_partitions: usize,
    /// Divide the program by the shardings written in it.
    pub use_spmd_partitioning: bool,
    /// Divide it with Shardy in place of GSPMD.
    pub use_shardy_partitioner: bool,
    /// Whether the compiler may choose the sharding of results that have none written: one value for all, or
    /// one for each result. Otherwise those are replicated.
    pub allow_propagation_to_output: Vec<bool>,
    /// As above, for parameters.
    pub allow_propagation_to_parameters: Vec<bool>,
    /// Device ids, partition after partition within replica after replica: `num_replicas * num_partitions`
    /// of them, or none to leave the choice to the plugin.
    pub device_ids: Vec<i64>,
    /// XLA flags of this one compilation by their names in `xla.proto`'s `DebugOptions`
    /// (`xla_gpu_autotune_level`), never the process's `XLA_FLAGS`.
    pub flags: BTreeMap<String, FlagValue>,
}

impl Default for CompileOptions {
    fn default() -> Self {
        CompileOptions {
            num_replicas: 1,
            num_partitions: 1,
            use_spmd_partitioning: false,
            use_shardy_partitioner: false,
            allow_propagation_to_output: Vec::new(),
            allow_propagation_to_parameters: Vec::new(),
            device_ids: Vec::new(),
            flags: BTreeMap::new(),
        }
    }
}

impl CompileOptions {
    /// One program divided over `count` devices by the shardings written in it.
    pub fn spmd(count: usize) -> Self {
        CompileOptions { num_partitions: count, use_spmd_partitioning: true, ..Default::default() }
    }

    /// The same with an XLA flag set.
    pub fn with_flag(mut self, name: impl Into<String>, value: impl Into<FlagValue>) -> Self {
        self.flags.insert(name.into(), value.into());
        self
    }

    /// These options with what is best for the plugin, where they say nothing of it.
    ///
    /// XLA looks for `ptxas` and `libdevice` where the first flag says, and a CUDA plugin from wheels has them beside it.
    /// On a CPU, the compiler needs half of the memory and less time for loops as its older emitters write them (the
    /// newer ones keep a context of MLIR, of about a megabyte, for every loop), and LLVM's lowest level makes them no slower.
    pub(super) fn for_plugin(&self, plugin: &Plugin) -> Self {
        let mut options = self.clone();
        let mut default = |flag: &str, value: FlagValue| {
            options.flags.entry(flag.to_owned()).or_insert(value);
        };
        if let Some(folder) = plugin.cuda_data_dir() {
            default("xla_gpu_cuda_data_dir", folder.display().to_string().into());
        }
        if plugin.kind() == Some(PluginKind::Cpu) {
            default("xla_cpu_use_fusion_emitters", false.into());
            default("xla_backend_optimization_level", 1i64.into());
        }
        options
    }

    /// `full`, which [`for_plugin`](Self::for_plugin) made of these options, without the flag that a compilation failed for
    /// because the plugin, newer or older than those this was written with, has none of its name. `None` where it failed for
    /// another reason, or these options ask for the flag themselves.
    pub(super) fn without_unknown(&self, mut full: CompileOptions, error: &Error) -> Option<CompileOptions> {
        let Error::InvalidArgument(Status { message, .. }) = error else { return None };
        let flag = message.strip_prefix("No such compile option: '")?.split('\'').next()?;
        (!self.flags.contains_key(flag) && full.flags.remove(flag).is_some()).then_some(full)
    }

    /// A serialized `xla::CompileOptionsProto`; equal options give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let device_assignment = (!self.device_ids.is_empty()).then(|| proto::DeviceAssignmentProto {
            replica_count: self.num_replicas as i32,
            computation_count: self.num_partitions as i32,
            computation_devices: (0..self.num_partitions)
                .map(|partition| proto::ComputationDevice {
                    replica_device_ids: self
                        .device_ids
                        .iter()
                        .skip(partition)
                        .step_by(self.num_partitions)
                        .copied()
                        .collect(),
                })
                .collect(),
        });
        proto::CompileOptionsProto {
            executable_build_options: Some(proto::ExecutableBuildOptionsProto {
                // "Not set", in XLA's convention.
                device_ordinal: -1,
                num_replicas: self.num_replicas as i64,
                num_partitions: self.num_partitions as i64,
                use_spmd_partitioning: self.use_spmd_partitioning,
                device_assignment,
                allow_spmd_sharding_propagation_to_output: self.allow_propagation_to_output.clone(),
                allow_spmd_sharding_propagation_to_parameters: self.allow_propagation_to_parameters.clone(),
                use_shardy_partitioner: self.use_shardy_partitioner,
            }),
            env_option_overrides: self
                .flags
                .iter()
                .map(|(name, value)| {
                    let value = match value.clone() {
                        FlagValue::Bool(value) => proto::OptionOverride::Bool(value),
                        FlagValue::Int(value) => proto::OptionOverride::Int(value),
                        FlagValue::Float(value) => proto::OptionOverride::Double(value),
                        FlagValue::Str(value) => proto::OptionOverride::String(value),
                    };
                    (name.clone(), proto::OptionOverrideProto { value: Some(value) })
                })
                .collect(),
        }
        .encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn only_flags_that_were_not_asked_for_are_left_out() {
        let asked = CompileOptions::default().with_flag("a", 1i64);
        let full = asked.clone().with_flag("b", 2i64);
        let failed = |message: &str| {
            let status = Status { call: "PJRT_Client_Compile", message: message.to_owned() };
            asked.without_unknown(full.clone(), &Error::InvalidArgument(status))
        };
        assert_eq!(failed("No such compile option: 'b'"), Some(asked.clone()));
        assert_eq!(failed("No such compile option: 'a'"), None);
        assert_eq!(failed("No such compile option: 'c'"), None);
        assert_eq!(failed("While setting option b, 'x' is not a valid int32 value."), None);
    }

    #[test]
    fn equal_options_have_equal_bytes_and_read_back() {
        let options =
            CompileOptions { num_replicas: 2, device_ids: vec![0, 1, 2, 3], ..CompileOptions::spmd(2) };
        let one = options.clone().with_flag("b", 1i64).with_flag("a", true).with_flag("c", 0.5);
        let other = options.with_flag("c", 0.5).with_flag("a", true).with_flag("b", 1i64);
        assert_eq!(one.encode(), other.encode());

        let decoded = proto::CompileOptionsProto::decode(one.encode().as_slice()).unwrap();
        let build = decoded.executable_build_options.unwrap();
        assert_eq!((build.num_replicas, build.num_partitions, build.device_ordinal), (2, 2, -1));
        let columns = build.device_assignment.unwrap().computation_devices;
        let columns: Vec<_> = columns.into_iter().map(|column| column.replica_device_ids).collect();
        assert_eq!(columns, [[0, 2], [1, 3]]);
        let names: Vec<_> = decoded.env_option_overrides.into_keys().collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}

use std::fmt;

use super::api::{self, Api};
use super::buffer::from_buffer_type;
use super::ffi::{self, Struct};
use super::{Error, NamedValue, named};
use crate::array::Shape;

/// What a compiler made of a program, loaded on devices or not: its size, its needs, its bytes.
pub struct CompiledProgram {
    api: Api,
    ptr: *mut ffi::PJRT_Executable,
}

// SAFETY: PJRT executables may be used from any thread.
unsafe impl Send for CompiledProgram {}
// SAFETY: as above; no method changes the executable.
unsafe impl Sync for CompiledProgram {}

impl Drop for CompiledProgram {
    fn drop(&mut self) {
        // SAFETY: this is its only owner.
        unsafe {
            self.api.destroy(ffi::PJRT_Executable_Destroy_Args { executable: self.ptr, ..Struct::zeroed() })
        }
    }
}

impl CompiledProgram {
    /// # Safety
    /// `ptr` is an executable of this plugin that nobody else destroys.
    pub(super) unsafe fn new(api: Api, ptr: *mut ffi::PJRT_Executable) -> Self {
        CompiledProgram { api, ptr }
    }

    /// The HLO module's name.
    pub fn name(&self) -> Result<String, Error> {
        let args = ffi::PJRT_Executable_Name_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: the executable is live until drop, as is what it returns, here and below.
        unsafe {
            let args = self.api.call(args)?;
            Ok(api::string(args.executable_name, args.executable_name_size))
        }
    }

    pub fn num_outputs(&self) -> Result<usize, Error> {
        let args = ffi::PJRT_Executable_NumOutputs_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: as in `name`.
        Ok(unsafe { self.api.call(args)? }.num_outputs)
    }

    pub fn num_replicas(&self) -> Result<usize, Error> {
        let args = ffi::PJRT_Executable_NumReplicas_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: as in `name`.
        Ok(unsafe { self.api.call(args)? }.num_replicas)
    }

    pub fn num_partitions(&self) -> Result<usize, Error> {
        let args = ffi::PJRT_Executable_NumPartitions_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: as in `name`.
        Ok(unsafe { self.api.call(args)? }.num_partitions)
    }

    /// The results' shapes, each as one device holds it.
    pub fn output_shapes(&self) -> Result<Vec<Shape>, Error> {
        let types = ffi::PJRT_Executable_OutputElementTypes_Args { executable: self.ptr, ..Struct::zeroed() };
        let dims = ffi::PJRT_Executable_OutputDimensions_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: as in `name`; `dims` holds the extents of all results, one after another.
        let (types, ranks, dims) = unsafe {
            let types = self.api.call(types)?;
            let dims = self.api.call(dims)?;
            let ranks = api::slice(dims.dim_sizes, dims.num_outputs);
            (
                api::slice(types.output_types.cast_const(), types.num_output_types),
                ranks,
                api::slice(dims.dims, ranks.iter().sum()),
            )
        };
        let mut rest = dims.iter().map(|&dim| dim as usize);
        let shape = |(&element, &rank): (&i32, &usize)| {
            Ok(Shape::new(from_buffer_type(element)?, rest.by_ref().take(rank).collect::<Vec<_>>()))
        };
        types.iter().zip(ranks).map(shape).collect()
    }

    /// Size of the machine code, in bytes.
    pub fn code_bytes(&self) -> Result<u64, Error> {
        let args =
            ffi::PJRT_Executable_SizeOfGeneratedCodeInBytes_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: as in `name`.
        Ok(unsafe { self.api.call(args)? }.size_in_bytes as u64)
    }

    /// The memory that one run needs on each device.
    pub fn memory_stats(&self) -> Result<CompiledMemoryStats, Error> {
        let args =
            ffi::PJRT_Executable_GetCompiledMemoryStats_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: as in `name`.
        let stats = unsafe { self.api.call(args)? };
        Ok(CompiledMemoryStats {
            code_bytes: stats.generated_code_size_in_bytes as u64,
            argument_bytes: stats.argument_size_in_bytes as u64,
            output_bytes: stats.output_size_in_bytes as u64,
            alias_bytes: stats.alias_size_in_bytes as u64,
            temp_bytes: stats.temp_size_in_bytes as u64,
            host_code_bytes: stats.host_generated_code_size_in_bytes as u64,
            host_argument_bytes: stats.host_argument_size_in_bytes as u64,
            host_output_bytes: stats.host_output_size_in_bytes as u64,
            host_alias_bytes: stats.host_alias_size_in_bytes as u64,
            host_temp_bytes: stats.host_temp_size_in_bytes as u64,
            // A plugin older than the field leaves it zero.
            peak_bytes: (stats.peak_memory_in_bytes > 0).then_some(stats.peak_memory_in_bytes as u64),
        })
    }

    /// The compiler's estimate of one run (`flops`, `bytes accessed`, …), by the plugin's names.
    pub fn cost_analysis(&self) -> Result<Vec<(String, NamedValue)>, Error> {
        let args = ffi::PJRT_Executable_GetCostAnalysis_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: as in `name`.
        unsafe {
            let args = self.api.call(args)?;
            Ok(named::from_ffi(args.properties, args.num_properties))
        }
    }

    /// The executable as bytes for [`Client::deserialize`](super::Client::deserialize), on the same plugin
    /// and kind of device.
    pub fn serialize(&self) -> Result<Vec<u8>, Error> {
        let args = ffi::PJRT_Executable_Serialize_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: as in `name`; the bytes live until the deleter is called, once.
        unsafe {
            let args = self.api.call(args)?;
            let bytes = api::bytes(args.serialized_bytes, args.serialized_bytes_size).to_vec();
            if let Some(delete) = args.serialized_executable_deleter {
                delete(args.serialized_executable);
            }
            Ok(bytes)
        }
    }
}

impl fmt::Debug for CompiledProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompiledProgram({})", self.name().unwrap_or_default())
    }
}

/// The memory that one run of a program needs on each device, in bytes. `host_` figures are of the host's
/// memory that the device uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompiledMemoryStats {
    pub code_bytes: u64,
    pub argument_bytes: u64,
    pub output_bytes: u64,
    /// Results that live in donated arguments: counted in both of the above.
    pub alias_bytes: u64,
    pub temp_bytes: u64,
    pub host_code_bytes: u64,
    pub host_argument_bytes: u64,
    pub host_output_bytes: u64,
    pub host_alias_bytes: u64,
    pub host_temp_bytes: u64,
    /// The compiler's own figure for the highest use at any time, where the plugin gives one.
    pub peak_bytes: Option<u64>,
}

impl CompiledMemoryStats {
    /// Arguments, results and temporaries at once, aliased memory counted once: what must fit beside the
    /// code.
    pub fn total_bytes(&self) -> u64 {
        (self.argument_bytes + self.output_bytes + self.temp_bytes).saturating_sub(self.alias_bytes)
    }
}

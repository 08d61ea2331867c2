use std::fmt;

use super::api::{self, Api};
use super::ffi::{self, Struct};
use super::{CompileOptions, CompiledProgram, DeviceDescription, Error, NamedValue, Plugin, Program, named};

/// Devices that need not be at hand: a plugin's compiler works for them all the same.
///
/// Names and options are the plugin's. libtpu knows `v5e:2x4`; CUDA takes its devices from the options
/// `topology` (`1x1x8`: slices, hosts, devices) and `target_config` (a `GpuTargetConfigProto` in text form).
pub struct Topology {
    plugin: Plugin,
    ptr: *mut ffi::PJRT_TopologyDescription,
    platform_name: String,
    devices: Vec<DeviceDescription>,
}

// SAFETY: topologies do not change and may be used from any thread.
unsafe impl Send for Topology {}
// SAFETY: as above.
unsafe impl Sync for Topology {}

impl Drop for Topology {
    fn drop(&mut self) {
        let args = ffi::PJRT_TopologyDescription_Destroy_Args { topology: self.ptr, ..Struct::zeroed() };
        // SAFETY: this is its only owner.
        unsafe { self.api().destroy(args) }
    }
}

impl Topology {
    /// # Errors
    /// [`Error::Unimplemented`] or [`Error::MissingFunction`] where the plugin compiles only for devices at
    /// hand, [`Error::InvalidArgument`] for a name that it does not know.
    pub fn new(plugin: &Plugin, name: &str, options: &[(String, NamedValue)]) -> Result<Self, Error> {
        let api = plugin.api();
        let create_options = named::to_ffi(options);
        // SAFETY: name and options live until the call returns.
        let topology = unsafe {
            api.call(ffi::PJRT_TopologyDescription_Create_Args {
                topology_name: name.as_ptr().cast(),
                topology_name_size: name.len(),
                create_options: create_options.as_ptr(),
                num_options: create_options.len(),
                ..Struct::zeroed()
            })?
        }
        .topology;
        // From here on, dropping `this` destroys the topology.
        let mut this = Topology {
            plugin: plugin.clone(),
            ptr: topology,
            platform_name: String::new(),
            devices: Vec::new(),
        };
        // SAFETY: the topology is live; what it returns lives as long as it does.
        unsafe {
            let name =
                api.call(ffi::PJRT_TopologyDescription_PlatformName_Args { topology, ..Struct::zeroed() })?;
            this.platform_name = api::string(name.platform_name, name.platform_name_size);
            let args =
                ffi::PJRT_TopologyDescription_GetDeviceDescriptions_Args { topology, ..Struct::zeroed() };
            let args = api.call(args)?;
            for &description in api::slice(args.descriptions, args.num_descriptions) {
                this.devices.push(DeviceDescription::read(api, description)?);
            }
        }
        Ok(this)
    }

    pub fn platform_name(&self) -> &str {
        &self.platform_name
    }

    pub fn devices(&self) -> &[DeviceDescription] {
        &self.devices
    }

    /// Compiles a program for these devices. What comes back cannot run here, but tells its needs and costs.
    pub fn compile(&self, program: Program, options: &CompileOptions) -> Result<CompiledProgram, Error> {
        let options = options.for_plugin(&self.plugin).encode();
        let program = program.to_ffi();
        // SAFETY: all pointers are live until the call returns, and compiling does not write to the program.
        unsafe {
            let args = self.api().call(ffi::PJRT_Compile_Args {
                topology: self.ptr,
                program: &program,
                compile_options: options.as_ptr().cast(),
                compile_options_size: options.len(),
                ..Struct::zeroed()
            })?;
            Ok(CompiledProgram::new(self.api(), args.executable))
        }
    }

    fn api(&self) -> Api {
        self.plugin.api()
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topology({}, {} devices)", self.platform_name, self.devices.len())
    }
}

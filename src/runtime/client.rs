use std::fmt;
use std::sync::Arc;

use super::api::{self, Api};
use super::ffi::{self, Struct};
use super::named;
use super::{CompileOptions, Error, Executable, NamedValue, Plugin, PluginKind, Program};

/// Options that a client is created with. Each is sent only to the kind of plugin that it is about, so one
/// set of them serves every machine; `other` is sent as it is, and CUDA's plugin refuses names that it does
/// not know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientOptions {
    /// CPU: how many devices to make of the one CPU. One if not set, where the plugin itself would make four.
    pub cpu_device_count: Option<usize>,
    /// GPU: take the memory at once (the plugin's default) or as needed.
    pub preallocate: Option<bool>,
    /// GPU: the part of the memory to take, 0 to 1 (the plugin's default is 0.75).
    pub memory_fraction: Option<f32>,
    /// GPU: `default`, `platform`, `bfc` or `cuda_async`.
    pub allocator: Option<String>,
    /// GPU: the ordinals of the devices to use.
    pub visible_devices: Option<Vec<i64>>,
    /// Any other option, by the plugin's name for it.
    pub other: Vec<(String, NamedValue)>,
}

impl ClientOptions {
    /// `count` devices on the CPU plugin.
    pub fn cpu_devices(count: usize) -> Self {
        ClientOptions { cpu_device_count: Some(count), ..Default::default() }
    }

    fn named_values(&self, kind: Option<PluginKind>) -> Vec<(String, NamedValue)> {
        let is_cpu = kind.is_none_or(|kind| kind == PluginKind::Cpu);
        let is_cuda = kind.is_none_or(|kind| matches!(kind, PluginKind::Cuda13 | PluginKind::Cuda12));
        let cpu_device_count = self.cpu_device_count.or((kind == Some(PluginKind::Cpu)).then_some(1));
        let typed = [
            (is_cpu, "cpu_device_count", cpu_device_count.map(|count| NamedValue::Int(count as i64))),
            (is_cuda, "preallocate", self.preallocate.map(NamedValue::Bool)),
            (is_cuda, "memory_fraction", self.memory_fraction.map(NamedValue::Float)),
            (is_cuda, "allocator", self.allocator.clone().map(NamedValue::Str)),
            (is_cuda, "visible_devices", self.visible_devices.clone().map(NamedValue::IntList)),
        ];
        let typed = typed.into_iter().filter(|(applies, ..)| *applies);
        let typed = typed.filter_map(|(_, name, value)| Some((name.to_owned(), value?)));
        typed.chain(self.other.iter().cloned()).collect()
    }
}

/// A plugin's devices, taken into use by this process. Cheap to clone; it lives as long as anything made by
/// it.
#[derive(Clone)]
pub struct Client(pub(super) Arc<ClientInner>);

pub(super) struct ClientInner {
    pub api: Api,
    pub ptr: *mut ffi::PJRT_Client,
    plugin: Plugin,
    platform_name: String,
    platform_version: String,
    process_index: usize,
    /// All devices of all processes, this process's first.
    devices: Vec<DeviceInfo>,
    num_addressable: usize,
}

// SAFETY: PJRT clients and devices may be used from any thread.
unsafe impl Send for ClientInner {}
// SAFETY: as above.
unsafe impl Sync for ClientInner {}

impl Drop for ClientInner {
    fn drop(&mut self) {
        // SAFETY: everything made by the client holds this `Arc`, so it is gone by now.
        unsafe { self.api.destroy(ffi::PJRT_Client_Destroy_Args { client: self.ptr, ..Struct::zeroed() }) }
    }
}

impl Client {
    pub fn new(plugin: &Plugin, options: &ClientOptions) -> Result<Self, Error> {
        let api = plugin.api();
        let values = options.named_values(plugin.kind());
        let create_options = named::to_ffi(&values);
        // SAFETY: the options live until the call returns.
        let client = unsafe {
            api.call(ffi::PJRT_Client_Create_Args {
                create_options: create_options.as_ptr(),
                num_options: create_options.len(),
                ..Struct::zeroed()
            })?
        }
        .client;
        // From here on, dropping `inner` destroys the client.
        let mut inner = ClientInner {
            api,
            ptr: client,
            plugin: plugin.clone(),
            platform_name: String::new(),
            platform_version: String::new(),
            process_index: 0,
            devices: Vec::new(),
            num_addressable: 0,
        };
        // SAFETY: the client is live; strings and lists that it returns live as long as it does.
        unsafe {
            let name = api.call(ffi::PJRT_Client_PlatformName_Args { client, ..Struct::zeroed() })?;
            inner.platform_name = api::string(name.platform_name, name.platform_name_size);
            let version = api.call(ffi::PJRT_Client_PlatformVersion_Args { client, ..Struct::zeroed() })?;
            inner.platform_version = api::string(version.platform_version, version.platform_version_size);
            let process = api.call(ffi::PJRT_Client_ProcessIndex_Args { client, ..Struct::zeroed() })?;
            inner.process_index = process.process_index as usize;
            let own = api.call(ffi::PJRT_Client_AddressableDevices_Args { client, ..Struct::zeroed() })?;
            let own = api::slice(own.addressable_devices, own.num_addressable_devices);
            inner.num_addressable = own.len();
            let all = api.call(ffi::PJRT_Client_Devices_Args { client, ..Struct::zeroed() })?;
            let others =
                api::slice(all.devices, all.num_devices).iter().filter(|device| !own.contains(device));
            for &device in own.iter().chain(others) {
                inner.devices.push(DeviceInfo::read(api, device)?);
            }
        }
        tracing::debug!(
            platform = inner.platform_name,
            version = inner.platform_version,
            devices = inner.num_addressable,
            options = ?values,
            "PJRT client created"
        );
        Ok(Client(Arc::new(inner)))
    }

    pub fn plugin(&self) -> &Plugin {
        &self.0.plugin
    }

    /// `cpu`, `cuda`, `tpu`, …
    pub fn platform_name(&self) -> &str {
        &self.0.platform_name
    }

    pub fn platform_version(&self) -> &str {
        &self.0.platform_version
    }

    /// This process among those that share the devices; 0 where there is one.
    pub fn process_index(&self) -> usize {
        self.0.process_index
    }

    /// The devices that this process feeds, in the plugin's order.
    pub fn devices(&self) -> Vec<Device> {
        (0..self.0.num_addressable).map(|index| self.device(index)).collect()
    }

    /// The devices of all processes, this process's first.
    pub fn global_devices(&self) -> Vec<Device> {
        (0..self.0.devices.len()).map(|index| self.device(index)).collect()
    }

    /// Compiles a program for this client's devices. Blocks; large programs take minutes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a program that does not parse or verify, [`Error::ResourceExhausted`]
    /// where the compiler finds that it cannot fit.
    pub fn compile(&self, program: Program, options: &CompileOptions) -> Result<Executable, Error> {
        let mut full = options.for_plugin(self.plugin());
        let program = program.to_ffi();
        let args = loop {
            let encoded = full.encode();
            // SAFETY: all pointers are live until the call returns, and compiling does not write to the program.
            let compiled = unsafe {
                self.0.api.call(ffi::PJRT_Client_Compile_Args {
                    client: self.0.ptr,
                    program: &program,
                    compile_options: encoded.as_ptr().cast(),
                    compile_options_size: encoded.len(),
                    ..Struct::zeroed()
                })
            };
            match compiled {
                Ok(args) => break args,
                Err(error) => full = options.without_unknown(full, &error).ok_or(error)?,
            }
        };
        // SAFETY: the executable is new and of this client.
        unsafe { Executable::new(self.clone(), args.executable) }
    }

    /// Loads what [`CompiledProgram::serialize`](super::CompiledProgram::serialize) wrote, without compiling.
    ///
    /// # Safety
    /// The bytes are code that will run in this process: they were written by a plugin of this very build,
    /// and nobody changed them since. A plugin need not notice when that is not so.
    pub unsafe fn deserialize(&self, serialized: &[u8]) -> Result<Executable, Error> {
        // SAFETY: the bytes live until the call returns; their meaning is the caller's promise.
        let args = unsafe {
            self.0.api.call(ffi::PJRT_Executable_DeserializeAndLoad_Args {
                client: self.0.ptr,
                serialized_executable: serialized.as_ptr().cast(),
                serialized_executable_size: serialized.len(),
                ..Struct::zeroed()
            })?
        };
        // SAFETY: the executable is new and of this client.
        unsafe { Executable::new(self.clone(), args.loaded_executable) }
    }

    pub(super) fn device(&self, index: usize) -> Device {
        Device { client: self.clone(), index }
    }

    /// The device behind a C pointer.
    pub(super) fn device_at(&self, ptr: *mut ffi::PJRT_Device) -> Option<Device> {
        self.0.devices.iter().position(|device| device.ptr == ptr).map(|index| self.device(index))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({}, {} devices)", self.platform_name(), self.0.num_addressable)
    }
}

struct DeviceInfo {
    ptr: *mut ffi::PJRT_Device,
    description: DeviceDescription,
}

impl DeviceInfo {
    /// # Safety
    /// `ptr` is a device of a live client of this plugin.
    unsafe fn read(api: Api, device: *mut ffi::PJRT_Device) -> Result<Self, Error> {
        // SAFETY: promised by the caller; a device's description lives as long as the device.
        let description = unsafe {
            let args = api.call(ffi::PJRT_Device_GetDescription_Args { device, ..Struct::zeroed() })?;
            DeviceDescription::read(api, args.device_description)?
        };
        Ok(DeviceInfo { ptr: device, description })
    }
}

/// What a device is, whether it is at hand or part of a topology.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceDescription {
    /// Unique among all processes.
    pub id: i64,
    /// The process that feeds it.
    pub process_index: usize,
    /// The vendor's name for it, as `NVIDIA H100 80GB HBM3` or `TPU v5 lite`.
    pub kind: String,
    /// Coordinates, core counts and the like, as the plugin names them.
    pub attributes: Vec<(String, NamedValue)>,
}

impl DeviceDescription {
    /// # Safety
    /// `device_description` is a live description of this plugin.
    pub(super) unsafe fn read(
        api: Api,
        device_description: *mut ffi::PJRT_DeviceDescription,
    ) -> Result<Self, Error> {
        // SAFETY: promised by the caller; strings and lists live as long as the description.
        unsafe {
            let id =
                api.call(ffi::PJRT_DeviceDescription_Id_Args { device_description, ..Struct::zeroed() })?;
            let process = api.call(ffi::PJRT_DeviceDescription_ProcessIndex_Args {
                device_description,
                ..Struct::zeroed()
            })?;
            let kind =
                api.call(ffi::PJRT_DeviceDescription_Kind_Args { device_description, ..Struct::zeroed() })?;
            let attributes = api.call(ffi::PJRT_DeviceDescription_Attributes_Args {
                device_description,
                ..Struct::zeroed()
            })?;
            Ok(DeviceDescription {
                id: id.id.into(),
                process_index: process.process_index as usize,
                kind: api::string(kind.device_kind, kind.device_kind_size),
                attributes: named::from_ffi(attributes.attributes, attributes.num_attributes),
            })
        }
    }
}

/// One device of a client. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    client: Client,
    index: usize,
}

impl Device {
    /// Unique among all processes.
    pub fn id(&self) -> i64 {
        self.description().id
    }

    /// The vendor's name for it.
    pub fn kind(&self) -> &str {
        &self.description().kind
    }

    pub fn description(&self) -> &DeviceDescription {
        &self.info().description
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether this process feeds it.
    pub fn is_addressable(&self) -> bool {
        self.index < self.client.0.num_addressable
    }

    /// The memory in use at this moment; `None` where the plugin does not count it (the CPU's does not).
    pub fn memory_stats(&self) -> Result<Option<DeviceMemoryStats>, Error> {
        let args = ffi::PJRT_Device_MemoryStats_Args { device: self.ptr(), ..Struct::zeroed() };
        // SAFETY: the device lives as long as the client.
        let stats = match unsafe { self.client.0.api.call(args) } {
            Ok(stats) => stats,
            Err(Error::Unimplemented(_) | Error::MissingFunction { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let some = |is_set: bool, bytes: i64| is_set.then_some(bytes as u64);
        Ok(Some(DeviceMemoryStats {
            bytes_in_use: stats.bytes_in_use as u64,
            peak_bytes_in_use: some(stats.peak_bytes_in_use_is_set, stats.peak_bytes_in_use),
            bytes_limit: some(stats.bytes_limit_is_set, stats.bytes_limit),
            num_allocs: some(stats.num_allocs_is_set, stats.num_allocs),
            largest_alloc_size: some(stats.largest_alloc_size_is_set, stats.largest_alloc_size),
            bytes_reserved: some(stats.bytes_reserved_is_set, stats.bytes_reserved),
            peak_bytes_reserved: some(stats.peak_bytes_reserved_is_set, stats.peak_bytes_reserved),
            bytes_reservable_limit: some(stats.bytes_reservable_limit_is_set, stats.bytes_reservable_limit),
            largest_free_block_bytes: some(
                stats.largest_free_block_bytes_is_set,
                stats.largest_free_block_bytes,
            ),
            pool_bytes: some(stats.pool_bytes_is_set, stats.pool_bytes),
            peak_pool_bytes: some(stats.peak_pool_bytes_is_set, stats.peak_pool_bytes),
        }))
    }

    pub(super) fn ptr(&self) -> *mut ffi::PJRT_Device {
        self.info().ptr
    }

    fn info(&self) -> &DeviceInfo {
        &self.client.0.devices[self.index]
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.ptr() == other.ptr()
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({} {}, id {})", self.client.platform_name(), self.kind(), self.id())
    }
}

/// A device allocator's counters, in bytes except `num_allocs`. Plugins fill in what they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemoryStats {
    pub bytes_in_use: u64,
    pub peak_bytes_in_use: Option<u64>,
    /// All that the allocator may ever hand out.
    pub bytes_limit: Option<u64>,
    pub num_allocs: Option<u64>,
    pub largest_alloc_size: Option<u64>,
    pub bytes_reserved: Option<u64>,
    pub peak_bytes_reserved: Option<u64>,
    pub bytes_reservable_limit: Option<u64>,
    pub largest_free_block_bytes: Option<u64>,
    pub pool_bytes: Option<u64>,
    pub peak_pool_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_to_the_plugins_they_are_about() {
        let options = ClientOptions {
            memory_fraction: Some(0.5),
            other: vec![("node_id".to_owned(), 3i64.into())],
            ..ClientOptions::cpu_devices(8)
        };
        let names = |kind| options.named_values(kind).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(Some(PluginKind::Cpu)), ["cpu_device_count", "node_id"]);
        assert_eq!(names(Some(PluginKind::Cuda12)), ["memory_fraction", "node_id"]);
        assert_eq!(names(Some(PluginKind::Tpu)), ["node_id"]);
        assert_eq!(names(None), ["cpu_device_count", "memory_fraction", "node_id"]);
        let default = ClientOptions::default();
        assert_eq!(
            default.named_values(Some(PluginKind::Cpu)),
            [("cpu_device_count".to_owned(), 1i64.into())]
        );
        assert_eq!(default.named_values(None), []);
    }
}

use crate::config;
use crate::runtime::{Client, ClientOptions, Plugin, PluginKind, PluginRequest, Wanted};

use super::Error;

/// Which plugin the config asks for.
pub fn plugin_request(device: &config::Device) -> PluginRequest {
    let kind = device.kind.map(|kind| match kind {
        config::DeviceKind::Cpu => Wanted::Kind(PluginKind::Cpu),
        config::DeviceKind::Gpu => Wanted::Cuda,
        config::DeviceKind::Tpu => Wanted::Kind(PluginKind::Tpu),
    });
    PluginRequest {
        path: device.plugin.as_ref().map(|path| path.as_path().to_owned()),
        wanted: kind.unwrap_or_default(),
    }
}

/// Loads the plugin and opens the devices.
pub fn client(device: &config::Device) -> Result<Client, Error> {
    client_of(&plugin_request(device), device)
}

/// As [`client`], with another plugin than the config's.
pub fn client_of(request: &PluginRequest, device: &config::Device) -> Result<Client, Error> {
    let plugin = Plugin::discover(request)?;
    let options = ClientOptions {
        cpu_device_count: Some(device.cpu_device_count),
        memory_fraction: Some(device.memory_fraction as f32),
        preallocate: Some(device.preallocate),
        ..ClientOptions::default()
    };
    Ok(Client::new(&plugin, &options)?)
}

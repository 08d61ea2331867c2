//! The CPU plugin for tests, one client for each number of devices in the whole test process.

use std::sync::OnceLock;

use super::{Client, ClientOptions, Plugin, PluginKind, PluginRequest};

/// A client with one CPU device. Panics with the command that fetches the plugin where it is missing.
pub fn cpu_client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| new_client(1)).clone()
}

/// A client with four virtual CPU devices.
pub fn four_cpu_devices() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| new_client(4)).clone()
}

pub fn cpu_plugin() -> Plugin {
    static PLUGIN: OnceLock<Plugin> = OnceLock::new();
    let discover =
        || Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap_or_else(|error| panic!("{error}"));
    PLUGIN.get_or_init(discover).clone()
}

fn new_client(num_devices: usize) -> Client {
    Client::new(&cpu_plugin(), &ClientOptions::cpu_devices(num_devices))
        .unwrap_or_else(|error| panic!("{error}"))
}

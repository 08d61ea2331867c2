use std::path::PathBuf;

use crate::runtime::{Client, PluginRequest, Wanted};
use crate::{config, setup};

/// Which plugin a verb is to use.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PluginArgs {
    /// Use this plugin's file
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Use the plugin of this kind: cpu, cuda, cuda13, cuda12 or tpu
    #[arg(long, value_name = "KIND", conflicts_with = "plugin")]
    pub kind: Option<Wanted>,
}

impl PluginArgs {
    /// The plugin asked for, else any.
    pub(super) fn request(&self) -> PluginRequest {
        PluginRequest { path: self.plugin.clone(), wanted: self.kind.unwrap_or_default() }
    }

    /// A client of the plugin asked for, else of the one that a config's `device` says.
    pub(super) fn client(&self, device: &config::Device) -> Result<Client, setup::Error> {
        match (&self.plugin, self.kind) {
            (None, None) => setup::client(device),
            _ => setup::client_of(&self.request(), device),
        }
    }
}

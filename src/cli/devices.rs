//! `paligemma devices`: which plugins are found and what devices they bring.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::runtime::{
    Client, ClientOptions, Device, Error, Found, NamedValue, Plugin, PluginRequest, Wanted, discover,
};

/// List the PJRT plugins found, and their devices with memory.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Look at this plugin's file only
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Look at the plugin of this kind only: cpu, cuda, cuda13, cuda12 or tpu
    #[arg(long, value_name = "KIND", conflicts_with = "plugin")]
    kind: Option<Wanted>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the report on stdout. A plugin asked for must work; among all those found, one that does not is
/// reported with its error.
pub fn run(args: &Args) -> Result<(), Error> {
    let reports = if args.plugin.is_some() || args.kind.is_some() {
        let request = PluginRequest { path: args.plugin.clone(), wanted: args.kind.unwrap_or_default() };
        let found = discover::find(&request)?;
        let plugin = Plugin::open(&found.path)?;
        let client = connect(&plugin)?;
        vec![Report { found, used: false, plugin: Ok(plugin), client: Ok(client) }]
    } else {
        let used = discover::find(&PluginRequest::default());
        let all = discover::find_all();
        if all.is_empty() {
            return used.map(drop);
        }
        let used = used.ok().map(|found| found.path);
        all.into_iter().map(|found| Report::new(used.as_ref() == Some(&found.path), found)).collect()
    };
    let text = if args.json {
        let reports: Vec<_> = reports.iter().map(Report::to_json).collect();
        format!("{:#}\n", Value::Array(reports))
    } else {
        reports.iter().map(Report::to_text).collect::<Vec<_>>().join("\n")
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Io { path: "standard output".into(), source: error })
        }
        _ => Ok(()),
    }
}

/// A look must not take the memory from a run that is using the device.
fn connect(plugin: &Plugin) -> Result<Client, Error> {
    let options = ClientOptions { preallocate: Some(false), ..Default::default() };
    Client::new(plugin, &options)
}

/// One plugin, and how far it could be brought to work.
struct Report {
    found: Found,
    /// Whether it is the one that other commands use by default.
    used: bool,
    plugin: Result<Plugin, String>,
    client: Result<Client, String>,
}

impl Report {
    fn new(used: bool, found: Found) -> Self {
        let plugin = Plugin::open(&found.path).map_err(|error| error.to_string());
        let client = match (&plugin, found.kind) {
            (Err(error), _) => Err(error.clone()),
            // Its client would at best fail, at worst wait for hardware that never answers.
            (_, Some(kind)) if !kind.has_devices() => {
                Err("no such device on this machine; the plugin can compile for one ahead of time".to_owned())
            }
            (Ok(plugin), _) => connect(plugin).map_err(|error| error.to_string()),
        };
        Report { found, used, plugin, client }
    }

    fn kind(&self) -> &'static str {
        self.found.kind.map_or("plugin", |kind| kind.name())
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let used = if self.used { " (used by default)" } else { "" };
        let mut line = |line: String| writeln!(text, "{line}").expect("writing to a string does not fail");
        line(format!("{}{used}: {}", self.kind(), self.found.path.display()));
        line(format!("  found in  {}", self.found.source));
        if let Ok(plugin) = &self.plugin {
            let (major, minor) = plugin.api_version();
            line(format!("  PJRT API  {major}.{minor}"));
        }
        match &self.client {
            Err(error) => line(format!("  devices   none: {error}")),
            Ok(client) => {
                let version = client.platform_version().lines().next().unwrap_or_default();
                line(format!("  platform  {} {version}", client.platform_name()));
                for device in client.devices() {
                    let memory = match memory(&device) {
                        Memory { limit: Some(limit), in_use: Some(in_use) } => {
                            format!(", {} of {} in use", gib(in_use), gib(limit))
                        }
                        Memory { limit: Some(limit), .. } => format!(", {}", gib(limit)),
                        Memory { in_use: Some(in_use), .. } => format!(", {} in use", gib(in_use)),
                        _ => String::new(),
                    };
                    line(format!("  device {:<2} {}{memory}", device.id(), device.kind()));
                }
            }
        }
        text
    }

    fn to_json(&self) -> Value {
        let attributes = |values: &[(String, NamedValue)]| -> Value {
            values.iter().map(|(name, value)| (name.clone(), json!(value.to_string()))).collect()
        };
        let device = |device: Device| {
            let memory = memory(&device);
            json!({
                "id": device.id(),
                "kind": device.kind(),
                "memory_limit_bytes": memory.limit,
                "memory_in_use_bytes": memory.in_use,
                "attributes": attributes(&device.description().attributes),
            })
        };
        let plugin = self.plugin.as_ref().ok();
        let client = self.client.as_ref().ok();
        json!({
            "kind": self.found.kind.map(|kind| kind.name()),
            "path": self.found.path.display().to_string(),
            "source": self.found.source,
            "used_by_default": self.used,
            "api_version": plugin.map(|plugin| format!("{}.{}", plugin.api_version().0, plugin.api_version().1)),
            "attributes": plugin.map(|plugin| attributes(plugin.attributes())),
            "platform_name": client.map(Client::platform_name),
            "platform_version": client.map(Client::platform_version),
            "devices": client.map_or_else(Vec::new, Client::devices).into_iter().map(device).collect::<Vec<_>>(),
            "error": self.client.as_ref().err(),
        })
    }
}

/// A device's memory in bytes, as far as the plugin tells.
struct Memory {
    limit: Option<u64>,
    in_use: Option<u64>,
}

fn memory(device: &Device) -> Memory {
    let stats = device.memory_stats().ok().flatten();
    let attribute = || {
        device.description().attributes.iter().find_map(|(name, value)| match value {
            NamedValue::Int(bytes) if name == "device_memory_bytes_limit" => u64::try_from(*bytes).ok(),
            _ => None,
        })
    };
    Memory {
        limit: stats.and_then(|stats| stats.bytes_limit).or_else(attribute),
        in_use: stats.map(|stats| stats.bytes_in_use),
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::PluginKind;

    #[test]
    fn reports_the_cpu_plugin_and_one_that_does_not_load() {
        let found =
            discover::find(&PluginRequest::kind(PluginKind::Cpu)).unwrap_or_else(|error| panic!("{error}"));
        let report = Report::new(true, found.clone());
        let text = report.to_text();
        assert!(text.starts_with(&format!("cpu (used by default): {}\n", found.path.display())), "{text}");
        assert!(text.contains("  PJRT API  0."), "{text}");
        assert!(text.ends_with("  device 0  cpu\n"), "{text}");
        let json = report.to_json();
        assert_eq!(json["platform_name"], "cpu");
        assert_eq!(json["devices"][0]["kind"], "cpu");
        assert_eq!(json["error"], Value::Null);

        let file = tempfile::NamedTempFile::with_suffix(".so").unwrap();
        let found = Found { kind: None, path: file.path().to_owned(), source: "--plugin".to_owned() };
        let report = Report::new(false, found);
        assert!(report.to_text().contains("devices   none: PJRT plugin"), "{}", report.to_text());
        assert_eq!(report.to_json()["devices"], json!([]));
        assert!(report.to_json()["error"].as_str().unwrap().contains("cannot be loaded"));
    }
}

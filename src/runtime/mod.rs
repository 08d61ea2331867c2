//! Runs compiled programs on devices through the PJRT C API of a plugin loaded at run time.
//!
//! This module owns everything between bytes of HLO and bytes of results: finding and loading plugins,
//! clients and their devices, compilation with a disk cache, buffers and donation, execution, memory figures,
//! and ahead-of-time topologies. It refuses to know what a program computes: graphs, models and shardings are
//! other modules' business. Nothing here needs C++, and nothing waits for a device unless its documentation
//! says so.
//!
//! ```no_run
//! use paligemma::array::HostArray;
//! use paligemma::runtime::{Arg, Client, ClientOptions, CompileOptions, Plugin, PluginRequest, Program};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plugin = Plugin::discover(&PluginRequest::default())?;
//! let client = Client::new(&plugin, &ClientOptions::default())?;
//! let double = "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
//!     %y = stablehlo.add %x, %x : tensor<2xf32>
//!     return %y : tensor<2xf32>
//! }";
//! let executable = client.compile(Program::mlir(double), &CompileOptions::default())?;
//! let x = client.upload(&HostArray::new([2], &[1.0f32, 2.0])?, &client.devices()[0])?;
//! let results = executable.execute(vec![Arg::Keep(&x)])?;
//! assert_eq!(results[0].download()?.values::<f32>()?, [2.0, 4.0]);
//! # Ok(())
//! # }
//! ```

mod api;
mod buffer;
mod cache;
mod client;
mod compiled;
pub mod discover;
mod error;
mod event;
mod executable;
mod ffi;
#[cfg(test)]
mod ffi_probe;
mod named;
mod options;
mod plugin;
mod proto;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod topology;
mod views;

pub use buffer::{Buffer, Download};
pub use cache::{CACHE_VARIABLE, CacheOutcome, ExecutableCache};
pub use client::{Client, ClientOptions, Device, DeviceDescription, DeviceMemoryStats};
pub use compiled::{CompiledMemoryStats, CompiledProgram};
pub use discover::{Found, PluginKind, PluginRequest, Wanted};
pub use error::{Error, Status};
pub use executable::{Arg, Executable};
pub use named::NamedValue;
pub use options::{CompileOptions, FlagValue, Program, ProgramFormat};
pub use plugin::Plugin;
pub use topology::Topology;
pub use views::Parting;

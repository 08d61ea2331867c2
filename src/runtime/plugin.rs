use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::api::Api;
use super::ffi::{self, Struct};
use super::named;
use super::{Error, Found, NamedValue, PluginKind, PluginRequest, discover};

/// A loaded and initialised PJRT plugin. Cheap to clone; the library stays loaded until the process ends.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    api: Api,
    path: PathBuf,
    attributes: Vec<(String, NamedValue)>,
}

impl Plugin {
    /// Loads the plugin that [`discover`](discover::find) finds for the request.
    pub fn discover(request: &PluginRequest) -> Result<Self, Error> {
        let Found { path, .. } = discover::find(request)?;
        Plugin::open(&path)
    }

    /// Loads a plugin's shared library and initialises it. The path should be in its wheel's tree, because
    /// CUDA plugins find NVIDIA's libraries relative to themselves.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = path.canonicalize().map_err(|source| Error::Io { path: path.to_owned(), source })?;
        type GetPjrtApi = unsafe extern "C" fn() -> *const ffi::PJRT_Api;
        // SAFETY: loading runs the library's initialisers; the user chose this library for that.
        let library = unsafe { libloading::Library::new(&path) }
            .map_err(|source| Error::PluginLoad { path: path.clone(), source })?;
        // SAFETY: every PJRT plugin exports this function with this type.
        let table = unsafe {
            let entry = library
                .get::<GetPjrtApi>(b"GetPjrtApi")
                .map_err(|_| Error::NotAPlugin { path: path.clone(), problem: "is missing" })?;
            entry()
        };
        // Plugins start threads that run the library's code until the process ends.
        std::mem::forget(library);
        if table.is_null() {
            return Err(Error::NotAPlugin { path, problem: "returned null" });
        }
        // SAFETY: the plugin returned the table, and its library was just made permanent.
        let api = unsafe { Api::new(table) };
        let (major, minor) = api.version();
        if major != ffi::API_MAJOR {
            return Err(Error::IncompatibleVersion { path, major, minor });
        }
        // SAFETY: these calls take no pointers. libtpu aborts when anything is called before this one.
        let attributes = unsafe {
            api.call(ffi::PJRT_Plugin_Initialize_Args::zeroed())?;
            if api.has::<ffi::PJRT_Plugin_Attributes_Args>() {
                let args = api.call(ffi::PJRT_Plugin_Attributes_Args::zeroed())?;
                named::from_ffi(args.attributes, args.num_attributes)
            } else {
                Vec::new()
            }
        };
        tracing::debug!(path = %path.display(), major, minor, "PJRT plugin loaded");
        Ok(Plugin(Arc::new(Inner { api, path, attributes })))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The kind that the file's name tells.
    pub fn kind(&self) -> Option<PluginKind> {
        PluginKind::of_file(&self.0.path)
    }

    /// Major and minor version of the PJRT C API that the plugin was built with.
    pub fn api_version(&self) -> (i32, i32) {
        self.0.api.version()
    }

    /// What the plugin says of itself (`xla_version`, `stablehlo_current_version`, …); empty where it cannot.
    pub fn attributes(&self) -> &[(String, NamedValue)] {
        &self.0.attributes
    }

    /// The CUDA toolkit's folder in the wheels beside the plugin: `nvidia/cu13` or `nvidia/cuda_nvcc`.
    pub(super) fn cuda_data_dir(&self) -> Option<PathBuf> {
        let name = match self.kind()? {
            PluginKind::Cuda13 => "cu13",
            PluginKind::Cuda12 => "cuda_nvcc",
            PluginKind::Cpu | PluginKind::Tpu => return None,
        };
        let folder = self.0.path.ancestors().nth(3)?.join("nvidia").join(name);
        folder.is_dir().then_some(folder)
    }

    pub(super) fn api(&self) -> Api {
        self.0.api
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plugin({})", self.path().display())
    }
}

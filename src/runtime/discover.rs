//! Where plugins are looked for: a file named by the user, installed Python wheels, then the project's cache.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::OnceLock;

use super::Error;

/// The environment variable that names a plugin's file.
pub const PLUGIN_VARIABLE: &str = "PALIGEMMA_PJRT_PLUGIN";

/// A build of XLA that ships as a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PluginKind {
    Cpu,
    Cuda13,
    Cuda12,
    Tpu,
}

impl PluginKind {
    pub const ALL: [PluginKind; 4] =
        [PluginKind::Tpu, PluginKind::Cuda13, PluginKind::Cuda12, PluginKind::Cpu];

    /// The name that `scripts/fetch-plugin` and the cache's folders use.
    pub const fn name(self) -> &'static str {
        match self {
            PluginKind::Cpu => "cpu",
            PluginKind::Cuda13 => "cuda13",
            PluginKind::Cuda12 => "cuda12",
            PluginKind::Tpu => "tpu",
        }
    }

    /// Whether this machine has such devices, judged by its device nodes. Without them a plugin still
    /// compiles for a [`Topology`](super::Topology).
    pub fn has_devices(self) -> bool {
        match self {
            PluginKind::Cpu => true,
            PluginKind::Cuda13 | PluginKind::Cuda12 => has_nvidia_gpu(),
            PluginKind::Tpu => has_tpu(),
        }
    }

    /// The kind that a file's name tells, whether it came in a wheel or was built from XLA's sources
    /// (`pjrt_c_api_cpu_plugin.so`). CUDA's version is in the folder's name, if anywhere.
    pub fn of_file(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        if name.contains("cpu") {
            Some(PluginKind::Cpu)
        } else if name.contains("tpu") {
            Some(PluginKind::Tpu)
        } else if name.contains("cuda") || name.contains("gpu") {
            let folder = path.parent().and_then(Path::to_str).unwrap_or_default();
            Some(if folder.contains("cuda12") { PluginKind::Cuda12 } else { PluginKind::Cuda13 })
        } else {
            None
        }
    }

    /// The plugin's file in a tree of unpacked wheels (`site-packages`).
    const fn file(self) -> &'static str {
        match self {
            PluginKind::Cpu => "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so",
            PluginKind::Cuda13 => "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
            PluginKind::Cuda12 => "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
            PluginKind::Tpu => "libtpu/libtpu.so",
        }
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What kind of device is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// The best that this machine has: a TPU, an NVIDIA GPU, else the CPU.
    #[default]
    Any,
    /// CUDA of either version, whichever is found, the newer first.
    Cuda,
    Kind(PluginKind),
}

impl Wanted {
    fn kinds(self) -> &'static [PluginKind] {
        match self {
            Wanted::Any if has_tpu() => &[PluginKind::Tpu],
            Wanted::Any if has_nvidia_gpu() => &[PluginKind::Cuda13, PluginKind::Cuda12],
            Wanted::Any => &[PluginKind::Cpu],
            Wanted::Cuda => &[PluginKind::Cuda13, PluginKind::Cuda12],
            Wanted::Kind(PluginKind::Cpu) => &[PluginKind::Cpu],
            Wanted::Kind(PluginKind::Cuda13) => &[PluginKind::Cuda13],
            Wanted::Kind(PluginKind::Cuda12) => &[PluginKind::Cuda12],
            Wanted::Kind(PluginKind::Tpu) => &[PluginKind::Tpu],
        }
    }

    /// Whether a file may be such a plugin, by its name; a name that tells nothing is accepted.
    fn accepts_file(self, path: &Path) -> bool {
        self == Wanted::Any || PluginKind::of_file(path).is_none_or(|kind| self.kinds().contains(&kind))
    }
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "cuda" => Ok(Wanted::Cuda),
            _ => PluginKind::ALL
                .into_iter()
                .find(|kind| kind.name() == name)
                .map(Wanted::Kind)
                .ok_or_else(|| Error::UnknownKind(name.to_owned())),
        }
    }
}

/// Which plugin to use: a file, or a kind to look for.
#[derive(Debug, Clone, Default)]
pub struct PluginRequest {
    /// A plugin's file; wins over everything else.
    pub path: Option<PathBuf>,
    pub wanted: Wanted,
}

impl PluginRequest {
    pub fn kind(kind: PluginKind) -> Self {
        PluginRequest { path: None, wanted: Wanted::Kind(kind) }
    }
}

/// A plugin's file and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// For a file that the user named, what its name tells.
    pub kind: Option<PluginKind>,
    pub path: PathBuf,
    /// `--plugin`, `PALIGEMMA_PJRT_PLUGIN`, or the folder that was searched.
    pub source: String,
}

impl Found {
    fn named(path: PathBuf, source: &str) -> Self {
        Found { kind: PluginKind::of_file(&path), path, source: source.to_owned() }
    }
}

/// Finds one plugin: the file in the request, the one in [`PLUGIN_VARIABLE`] (unless its name is that of
/// another kind than the one asked for), then the first wanted kind in wheels and in the cache. Does not load
/// it.
///
/// # Errors
/// [`Error::PluginNotFound`] with the command that fetches the plugin and the places searched.
pub fn find(request: &PluginRequest) -> Result<Found, Error> {
    if let Some(path) = &request.path {
        return Ok(Found::named(path.clone(), "--plugin"));
    }
    if let Some(path) = std::env::var_os(PLUGIN_VARIABLE).map(PathBuf::from)
        && request.wanted.accepts_file(&path)
    {
        return Ok(Found::named(path, PLUGIN_VARIABLE));
    }
    let kinds = request.wanted.kinds();
    let mut searched = Vec::new();
    for &kind in kinds {
        for root in roots(kind) {
            let path = root.join(kind.file());
            if path.is_file() {
                return Ok(Found { kind: Some(kind), path, source: root.display().to_string() });
            }
            searched.push(path.display().to_string());
        }
    }
    let wanted = match kinds {
        [PluginKind::Cpu] => "the CPU",
        [PluginKind::Tpu] => "TPU",
        [PluginKind::Cuda13] => "CUDA 13",
        [PluginKind::Cuda12] => "CUDA 12",
        _ => "CUDA",
    };
    Err(Error::PluginNotFound { wanted, fetch: kinds[0].name(), searched })
}

/// Every plugin within reach, in order of preference.
pub fn find_all() -> Vec<Found> {
    let named = std::env::var_os(PLUGIN_VARIABLE).map(|path| Found::named(path.into(), PLUGIN_VARIABLE));
    let installed = PluginKind::ALL.into_iter().flat_map(|kind| {
        roots(kind).into_iter().map(move |root| Found {
            kind: Some(kind),
            path: root.join(kind.file()),
            source: root.display().to_string(),
        })
    });
    named.into_iter().chain(installed.filter(|found| found.path.is_file())).collect()
}

/// The project's folder for fetched plugins and compiled programs: `$PALIGEMMA_CACHE`, else `paligemma` in
/// `$XDG_CACHE_HOME` or `~/.cache`. `None` where the environment names none of them.
pub fn cache_dir() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("PALIGEMMA_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("paligemma")))
        .or_else(|| Some(variable("HOME")?.join(".cache/paligemma")))
}

/// Sets what plugins read from the environment when they are loaded, where the user has not set it: XLA logs
/// errors only (its warnings are for its own developers); the CPU's compiler unrolls no loops, which takes it
/// a third longer and makes no program faster that was measured (an option that can be set nowhere else, and
/// that other compilers pass over by its name); and libtpu does not look for a cloud machine's metadata on a
/// machine without a TPU, where it would wait minutes for it before a [`Topology`](super::Topology) works.
///
/// # Safety
/// No other thread runs yet: call it first thing in `main`.
pub unsafe fn prepare_environment() {
    let mut settings = vec![
        ("TF_CPP_MIN_LOG_LEVEL", "2"),
        ("XLA_FLAGS", "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling=true"),
    ];
    if !has_tpu() {
        settings.push(("TPU_SKIP_MDS_QUERY", "1"));
    }
    for (name, value) in settings {
        if std::env::var_os(name).is_none() {
            // SAFETY: promised by the caller.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// Folders that may hold the kind's wheel, unpacked.
fn roots(kind: PluginKind) -> Vec<PathBuf> {
    static INSTALLED: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let venvs =
            std::env::var_os("VIRTUAL_ENV").map(PathBuf::from).into_iter().chain([PathBuf::from(".venv")]);
        let mut roots: Vec<_> = venvs.flat_map(|venv| venv_packages(&venv)).collect();
        for root in python_packages() {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        roots
    });
    let fetched = cache_dir().map(|cache| cache.join("plugins").join(kind.name()));
    installed.iter().cloned().chain(fetched).collect()
}

fn venv_packages(venv: &Path) -> Vec<PathBuf> {
    let Ok(entries) = venv.join("lib").read_dir() else { return Vec::new() };
    let mut roots: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path().join("site-packages"))
        .filter(|path| path.is_dir())
        .collect();
    roots.sort();
    roots
}

/// The package folders of the `python3` on PATH, if there is one. Asking it is the only way that holds for
/// every distribution's layout; it runs once in a process.
fn python_packages() -> Vec<PathBuf> {
    let script = "import site, sys; print('\\n'.join(dict.fromkeys(\
                  site.getsitepackages() + [site.getusersitepackages()] + [p for p in sys.path if p.endswith('-packages')])))";
    let Ok(output) = Command::new("python3").args(["-c", script]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).filter(|path| path.is_dir()).collect()
}

fn has_nvidia_gpu() -> bool {
    // The last is the GPU inside WSL 2.
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"].iter().any(|path| Path::new(path).exists())
}

/// Older TPUs have their own device nodes. Newer ones are given out through VFIO, as other devices also are.
fn has_tpu() -> bool {
    Path::new("/dev/accel0").exists() || (Path::new("/dev/vfio").exists() && has_tpu_on_pci())
}

/// Whether a TPU is on the PCI bus; Google's vendor id alone would also match its network cards.
fn has_tpu_on_pci() -> bool {
    const TPU_IDS: [&str; 7] = ["0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"];
    let Ok(devices) = Path::new("/sys/bus/pci/devices").read_dir() else { return false };
    devices.filter_map(Result::ok).any(|device| {
        let id = |name| std::fs::read_to_string(device.path().join(name)).unwrap_or_default();
        id("vendor").trim() == "0x1ae0" && TPU_IDS.contains(&id("device").trim())
    })
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn file_names_tell_the_kind() {
        for kind in PluginKind::ALL {
            assert_eq!(PluginKind::of_file(&Path::new("/wheels").join(kind.file())), Some(kind));
        }
        assert_eq!(PluginKind::of_file(Path::new("/xla/pjrt_c_api_gpu_plugin.so")), Some(PluginKind::Cuda13));
        assert_eq!(PluginKind::of_file(Path::new("/opt/my_plugin.so")), None);
        assert!(Wanted::Cuda.accepts_file(Path::new("/xla_cuda12/xla_cuda_plugin.so")));
        assert!(!Wanted::Kind(PluginKind::Cpu).accepts_file(Path::new("/xla_cuda12/xla_cuda_plugin.so")));
        assert!(Wanted::Kind(PluginKind::Cpu).accepts_file(Path::new("/opt/my_plugin.so")));
    }

    #[test]
    fn kinds_are_read_by_name() {
        assert_eq!("cuda".parse::<Wanted>().unwrap(), Wanted::Cuda);
        for kind in PluginKind::ALL {
            assert_eq!(kind.name().parse::<Wanted>().unwrap(), Wanted::Kind(kind));
        }
        let error = "rocm".parse::<Wanted>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown plugin kind \"rocm\", known are: cpu, cuda, cuda13, cuda12, tpu"
        );
    }

    #[test]
    fn venvs_of_any_python_are_looked_into() {
        let venv = tempfile::tempdir().unwrap();
        let packages = venv.path().join("lib/python3.12/site-packages");
        std::fs::create_dir_all(&packages).unwrap();
        assert_eq!(venv_packages(venv.path()), [packages]);
        assert_eq!(venv_packages(Path::new("/nowhere")), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_missing_plugin_names_the_command() {
        let error = Error::PluginNotFound {
            wanted: "TPU",
            fetch: PluginKind::Tpu.name(),
            searched: vec!["/a/libtpu.so".to_owned(), "/b/libtpu.so".to_owned()],
        };
        assert_eq!(
            error.to_string(),
            "no PJRT plugin for TPU found; fetch one with `scripts/fetch-plugin tpu`, or name its file with \
             --plugin or PALIGEMMA_PJRT_PLUGIN; searched: /a/libtpu.so, /b/libtpu.so"
        );
    }
}

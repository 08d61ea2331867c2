use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::discover;
use super::{Client, CompileOptions, Error, Executable, Program};

/// The environment variable that turns the cache off: `PALIGEMMA_COMPILE_CACHE=off`.
pub const CACHE_VARIABLE: &str = "PALIGEMMA_COMPILE_CACHE";

const MAGIC: &[u8; 8] = b"PGEXEC01";
const EXTENSION: &str = "executable";
const DEFAULT_MAX_BYTES: u64 = 4 << 30;

/// Compiled programs on disk, so that the next run starts at once.
///
/// An entry's key is everything that compilation depends on: the program's bytes, the options, the plugin's
/// build, the devices, and the environment that XLA reads. Each entry repeats its key and carries a digest of
/// its contents. Entries are written aside, synced and renamed, so processes may share a folder; a broken one
/// costs a warning and a compilation. The folder is as trusted as the program itself: entries are machine
/// code.
#[derive(Debug, Clone)]
pub struct ExecutableCache {
    folder: PathBuf,
    max_bytes: u64,
}

/// What the cache did for one compilation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheOutcome {
    Hit,
    /// Compiled and written. `why` says what differs from the nearest entry, or that there is none.
    Miss {
        why: String,
    },
    /// Compiled and not written, because there is no cache, or the plugin or the disk refused; `why` says
    /// which.
    Uncached {
        why: String,
    },
}

impl fmt::Display for CacheOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheOutcome::Hit => f.write_str("cache hit"),
            CacheOutcome::Miss { why } => write!(f, "cache miss: {why}"),
            CacheOutcome::Uncached { why } => write!(f, "not cached: {why}"),
        }
    }
}

impl ExecutableCache {
    /// A cache in a folder, which is made when first needed. Once its entries take more than `max_bytes`,
    /// those that were used least recently are removed.
    pub fn new(folder: impl Into<PathBuf>, max_bytes: u64) -> Self {
        ExecutableCache { folder: folder.into(), max_bytes }
    }

    /// The cache in the [project's folder](discover::cache_dir), unless [`CACHE_VARIABLE`] is `off`.
    pub fn from_environment() -> Option<Self> {
        if std::env::var_os(CACHE_VARIABLE).is_some_and(|value| value == "off") {
            return None;
        }
        Some(ExecutableCache::new(discover::cache_dir()?.join("executables"), DEFAULT_MAX_BYTES))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}-{}.{EXTENSION}", &key.0["program"][..16], &key.digest()[..32]))
    }

    /// The entry's payload; `None` where there is no entry.
    fn read(&self, key: &Key) -> Result<Option<Vec<u8>>, Broken> {
        let path = self.path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Broken(format!("{}: {error}", path.display()))),
        };
        let broken = |what: &str| Broken(format!("{}: {what}", path.display()));
        let (stored, payload) = parse(&bytes).ok_or_else(|| broken("is truncated or no cache entry"))?;
        let differing = key.differences(&stored);
        if !differing.is_empty() {
            return Err(broken(&format!("was written for another {}", differing.join(", "))));
        }
        if stored.0.get("payload").map(String::as_str) != Some(&digest(payload)) {
            return Err(broken("its contents do not match their digest"));
        }
        // The time of the last use orders removal; failing to note it does no harm.
        let _ = fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(payload.to_vec()))
    }

    fn write(&self, key: &Key, payload: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut header = key.clone();
        header.0.insert("payload", digest(payload));
        let header = header.encode();
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(MAGIC)?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        file.write_all(payload)?;
        file.as_file().sync_all()?;
        file.persist(self.path(key)).map_err(|error| error.error)?;
        self.shrink()
    }

    /// Removes the entries used least recently until the rest fits.
    fn shrink(&self) -> io::Result<()> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.1);
        let mut total: u64 = entries.iter().map(|entry| entry.2).sum();
        for (path, _, bytes) in entries {
            if total <= self.max_bytes {
                break;
            }
            tracing::debug!(path = %path.display(), bytes, "removed from the compile cache to make room");
            fs::remove_file(&path)?;
            total -= bytes;
        }
        Ok(())
    }

    /// Every entry with the time of its last use and its size in bytes.
    fn entries(&self) -> io::Result<Vec<(PathBuf, SystemTime, u64)>> {
        let mut entries = Vec::new();
        for entry in self.folder.read_dir()? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION)
                && let Ok(metadata) = path.metadata()
            {
                entries.push((path, metadata.modified()?, metadata.len()));
            }
        }
        Ok(entries)
    }

    /// What keeps the nearest entry from being a hit: one for the same program, whatever else differs.
    fn explain_miss(&self, key: &Key) -> String {
        let program = &key.0["program"][..16];
        let same_program =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(program));
        let entries = self.entries().unwrap_or_default();
        let nearest = entries
            .iter()
            .filter(|entry| same_program(&entry.0))
            .filter_map(|entry| Some(key.differences(&parse(&fs::read(&entry.0).ok()?)?.0)))
            .filter(|differing| !differing.is_empty())
            .min_by_key(Vec::len);
        match nearest {
            Some(differing) => {
                format!("this program was compiled before with another {}", differing.join(", "))
            }
            None => "this program was not compiled before".to_owned(),
        }
    }
}

impl Client {
    /// [`compile`](Self::compile), or the result of an earlier one from the cache. Says on the log how long
    /// it took and whether the cache helped.
    ///
    /// # Errors
    /// Those of `compile`; whatever goes wrong with the cache is a warning.
    pub fn compile_cached(
        &self,
        program: Program,
        options: &CompileOptions,
        cache: Option<&ExecutableCache>,
    ) -> Result<(Executable, CacheOutcome), Error> {
        let start = Instant::now();
        let (executable, outcome) = match cache {
            None => (
                self.compile(program, options)?,
                CacheOutcome::Uncached { why: "the cache is off".to_owned() },
            ),
            Some(cache) => self.load_or_compile(program, options, cache)?,
        };
        tracing::debug!(secs = start.elapsed().as_secs_f32(), "compiled a program ({outcome})");
        Ok((executable, outcome))
    }

    fn load_or_compile(
        &self,
        program: Program,
        options: &CompileOptions,
        cache: &ExecutableCache,
    ) -> Result<(Executable, CacheOutcome), Error> {
        let key = Key::new(self, program, options);
        let why = match cache.read(&key) {
            // SAFETY: the entry is whole, and was written by this build of the plugin for this kind of
            // machine.
            Ok(Some(payload)) => match unsafe { self.deserialize(&payload) } {
                Ok(executable) => return Ok((executable, CacheOutcome::Hit)),
                Err(error) => {
                    tracing::warn!("a cached program does not load and is compiled anew: {error}");
                    "the entry does not load".to_owned()
                }
            },
            Ok(None) => cache.explain_miss(&key),
            Err(Broken(what)) => {
                tracing::warn!("a cached program cannot be used and is compiled anew: {what}");
                what
            }
        };
        let executable = self.compile(program, options)?;
        let payload = match executable.compiled().serialize() {
            Ok(payload) => payload,
            Err(error) => {
                tracing::debug!("the plugin cannot serialize executables: {error}");
                return Ok((executable, CacheOutcome::Uncached { why: error.to_string() }));
            }
        };
        if let Err(error) = cache.write(&key, &payload) {
            tracing::warn!("the compile cache {} cannot be written: {error}", cache.folder.display());
            return Ok((executable, CacheOutcome::Uncached { why: error.to_string() }));
        }
        Ok((executable, CacheOutcome::Miss { why }))
    }
}

/// Why an entry is of no use.
struct Broken(String);

/// All that a compiled program depends on, by name, so that a difference can be named.
#[derive(Debug, Clone, PartialEq)]
struct Key(BTreeMap<&'static str, String>);

/// The names in a [`Key`], and `payload`, the digest of what follows it in an entry.
const PARTS: [&str; 7] = ["program", "options", "plugin", "devices", "host", "environment", "payload"];

impl Key {
    fn new(client: &Client, program: Program, options: &CompileOptions) -> Self {
        let plugin = client.plugin();
        let metadata = plugin.path().metadata();
        let modified = metadata.as_ref().ok().and_then(|metadata| metadata.modified().ok());
        let file = metadata.map(|metadata| metadata.len()).unwrap_or_default();
        let devices = client.global_devices();
        let kinds: Vec<_> = devices.iter().map(|device| (device.id(), device.kind())).collect();
        let variables = ["XLA_FLAGS", "LIBTPU_INIT_ARGS"].map(std::env::var_os);
        // XLA's CPU code is for the very processor it was compiled on.
        let host = if client.platform_name() == "cpu" { processor() } else { String::new() };
        Key(BTreeMap::from([
            ("program", digest(&[program.format.name().as_bytes(), b"\n", program.code].concat())),
            ("options", digest(&options.for_plugin(plugin).encode())),
            (
                "plugin",
                format!(
                    "{} {} {:?} {:?} {file} bytes {modified:?}",
                    client.platform_name(),
                    client.platform_version(),
                    plugin.api_version(),
                    plugin.attributes()
                ),
            ),
            ("devices", format!("process {} {kinds:?}", client.process_index())),
            ("host", host),
            ("environment", format!("{variables:?}")),
        ]))
    }

    fn digest(&self) -> String {
        digest(&self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).expect("a map of strings has a JSON form")
    }

    /// The names of the parts that differ.
    fn differences(&self, other: &Key) -> Vec<&'static str> {
        self.0
            .iter()
            .filter(|(name, value)| other.0.get(*name) != Some(value))
            .map(|(name, _)| *name)
            .collect()
    }
}

/// An entry's key (with `payload`) and its contents.
fn parse(bytes: &[u8]) -> Option<(Key, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    let (header, payload) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let mut header: BTreeMap<String, String> = serde_json::from_slice(header).ok()?;
    let parts = PARTS.into_iter().filter_map(|name| Some((name, header.remove(name)?))).collect();
    Some((Key(parts), payload))
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The processor's instruction sets, as Linux lists them; elsewhere only its architecture.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| info.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    format!("{} {} {}", std::env::consts::ARCH, line("model name"), digest(line("flags").as_bytes()))
}

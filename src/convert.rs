//! Checkpoints from one format to another, tensor by tensor.
//!
//! A conversion is a chain of [`Reader`]s that ends in a writer: the source under big_vision's names, what is
//! selected of it, in another dtype, under the target's names. Nothing is read before it is written, so that
//! memory holds one tensor and some more, whatever the size of the model. The target appears when it is
//! complete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::variant::{self, Variant};
use crate::checkpoint::{self, Cast, Overlay, Reader, Report, View, hf, npz, safetensors, zarr};
use crate::model::{GemmaConfig, PaliGemmaConfig, PoolType, PosEmb, SiglipConfig};
use crate::params::{self, Patterns};

/// What a checkpoint can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// big_vision's `.npz`.
    Npz,
    /// A directory that `transformers` loads.
    Hf,
    /// One safetensors file under big_vision's names.
    Native,
    /// An array directory as big_vision's trainer writes them, `checkpoint.bv-000000000`.
    Bv,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::Npz, Format::Hf, Format::Native, Format::Bv];

    pub const fn name(self) -> &'static str {
        match self {
            Format::Npz => "npz",
            Format::Hf => "hf",
            Format::Native => "native",
            Format::Bv => "bv",
        }
    }

    /// The format that a target's name asks for.
    ///
    /// # Errors
    /// When the name ends like a file of no known format.
    pub fn of_target(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("checkpoint.bv") {
            return Ok(Format::Bv);
        }
        // `paligemma-3b-pt-224.v2` is as good a name for a directory as any.
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npz") => Ok(Format::Npz),
            Some("safetensors") => Ok(Format::Native),
            Some("bin" | "pt" | "pth" | "ckpt" | "gguf" | "msgpack" | "h5" | "json") => {
                Err(Error::UnknownTarget { path: path.to_owned() })
            }
            _ => Ok(Format::Hf),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Format::ALL.into_iter().find(|format| format.name() == name);
        known.ok_or_else(|| {
            let names = Format::ALL.map(Format::name).join(", ");
            format!("unknown format \"{name}\", known are: {names}")
        })
    }
}

/// What to convert, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `None` goes by the target's name.
    pub to: Option<Format>,
    /// Floats are rounded to this type; `None` leaves each as it is.
    pub dtype: Option<DType>,
    /// Parameters to convert, by big_vision's names; empty for all.
    pub only: Patterns<()>,
    /// Where parameters come from that the source lacks.
    pub base: Option<PathBuf>,
    /// What the files of a Hugging Face directory say beside the weights.
    pub files: hf::FileOptions,
    /// The size at which a Hugging Face file ends and the next begins; `None` is [`hf::SHARD_BYTES`].
    pub shard_bytes: Option<u64>,
}

/// What was converted.
#[derive(Debug)]
pub struct Summary {
    pub format: Format,
    pub num_tensors: usize,
    pub bytes: u64,
    /// The model that the source is, where its shapes tell.
    pub variant: Option<Variant>,
    /// How the source's tensors relate to that model's.
    pub report: Option<Report>,
}

/// A conversion that is ready to run.
pub struct Plan {
    reader: Box<dyn Reader>,
    target: Target,
    summary: Summary,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Params(#[from] params::Error),
    #[error(
        "{} does not say what to convert to: name it *.npz, *.safetensors, checkpoint.bv-* or like a directory, or \
         use --to npz|hf|native|bv", path.display()
    )]
    UnknownTarget { path: PathBuf },
    #[error("nothing is selected: no parameter of {} is called like that, they are called like \"{example}\"", path.display())]
    NothingSelected { path: PathBuf, example: String },
    #[error(
        "a Hugging Face directory holds a whole model, and {} lacks parts of it; --base CKPT says where they come from",
        path.display()
    )]
    Incomplete {
        path: PathBuf,
        #[source]
        source: Box<checkpoint::Error>,
    },
    #[error("interrupted; nothing was written")]
    Interrupted,
}

impl Error {
    /// Whether arguments are wrong, rather than files.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Checkpoint(error) => error.is_usage(),
            Error::UnknownTarget { .. } | Error::NothingSelected { .. } | Error::Incomplete { .. } => true,
            Error::Params(_) | Error::Interrupted => false,
        }
    }
}

enum Target {
    Npz { writer: Box<npz::Writer>, order: Vec<(String, Shape)> },
    Native(Box<safetensors::Writer>),
    Hf(Box<hf::Writer>),
    Bv(zarr::Writer),
}

impl Target {
    /// Names and shapes in the order in which they are to be written.
    fn order(&self) -> &[(String, Shape)] {
        match self {
            Target::Npz { order, .. } => order,
            Target::Native(writer) => writer.order(),
            Target::Hf(writer) => writer.order(),
            Target::Bv(writer) => writer.order(),
        }
    }

    fn write(&mut self, name: &str, shape: &Shape, bytes: &[u8]) -> Result<(), checkpoint::Error> {
        match self {
            Target::Npz { writer, .. } => writer.write_bytes(name, shape, bytes),
            Target::Native(writer) => writer.write(name, bytes),
            Target::Hf(writer) => writer.write(name, bytes),
            Target::Bv(writer) => writer.write(name, bytes),
        }
    }

    fn finish(self) -> Result<(), checkpoint::Error> {
        match self {
            Target::Npz { writer, .. } => writer.finish(),
            Target::Native(writer) => writer.finish().map(drop),
            Target::Hf(writer) => writer.finish(),
            Target::Bv(writer) => writer.finish(),
        }
    }
}

impl Plan {
    /// Opens the source and begins the target, beside its final name.
    ///
    /// # Errors
    /// When the source cannot be read or does not hold what the target needs, or the target is there already.
    pub fn new(source: &Path, target: &Path, options: &Options) -> Result<Self, Error> {
        options.to.map_or_else(|| Format::of_target(target), Ok)?;
        if target.symlink_metadata().is_ok() {
            return Err(checkpoint::Error::Exists { path: target.to_owned() }.into());
        }
        Plan::of_reader(checkpoint::open(source)?, source, target, options)
    }

    /// As [`new`](Self::new), of parameters that are open already; `source` is what messages call them.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_reader(
        mut reader: Box<dyn Reader>,
        source: &Path,
        target: &Path,
        options: &Options,
    ) -> Result<Self, Error> {
        let format = options.to.map_or_else(|| Format::of_target(target), Ok)?;
        if target.symlink_metadata().is_ok() {
            return Err(checkpoint::Error::Exists { path: target.to_owned() }.into());
        }
        if let Some(base) = &options.base {
            reader = Box::new(Overlay::new(reader, checkpoint::open(base)?));
        }
        let variant = variant::detect(reader.as_ref());
        let report = variant.as_ref().map(|variant| report(variant, reader.as_ref())).transpose()?;
        if !options.only.is_empty() {
            let example = reader.names().first().map(|name| (*name).to_owned()).unwrap_or_default();
            reader = Box::new(View::select(reader, |name| options.only.get(name).is_some()));
            if reader.names().is_empty() {
                return Err(Error::NothingSelected { path: source.to_owned(), example });
            }
        }
        if let Some(dtype) = options.dtype {
            reader = Box::new(Cast::new(reader, dtype));
        }
        let mut files = Vec::new();
        if format == Format::Hf {
            let whole =
                options.base.is_some() || report.as_ref().is_some_and(|report| report.missing.is_empty());
            let export = hf::Export::new(reader, &hf::ExportOptions::default());
            let export = export.map_err(|error| match whole {
                true => Error::Checkpoint(error),
                false => Error::Incomplete { path: source.to_owned(), source: Box::new(error) },
            })?;
            files = hf::extra_files(&export, &options.files)?;
            reader = Box::new(export);
        }
        if format == Format::Bv {
            reader = Box::new(View::under(reader, "params/"));
        }
        let shape = |name: &str| Ok((name.to_owned(), reader.shape(name)?.clone()));
        let tensors = reader.names().into_iter().map(shape).collect::<Result<Vec<_>, checkpoint::Error>>()?;
        let bytes = tensors.iter().map(|(_, shape)| shape.num_bytes() as u64).sum();
        let num_tensors = tensors.len();
        let target = match format {
            Format::Npz => Target::Npz { writer: Box::new(npz::Writer::create(target)?), order: tensors },
            Format::Native => {
                Target::Native(Box::new(safetensors::Writer::create(target, tensors, &BTreeMap::new())?))
            }
            Format::Hf => {
                let shard_bytes = options.shard_bytes.unwrap_or(hf::SHARD_BYTES);
                Target::Hf(Box::new(hf::Writer::create(target, tensors, files, shard_bytes)?))
            }
            Format::Bv => Target::Bv(zarr::Writer::create(target, tensors)?),
        };
        let summary = Summary { format, num_tensors, bytes, variant, report };
        Ok(Plan { reader, target, summary })
    }

    /// Bytes that the target's tensors have.
    pub fn num_bytes(&self) -> u64 {
        self.summary.bytes
    }

    /// Converts. `wrote` is told how many bytes more have been written.
    ///
    /// # Errors
    /// When the source is damaged or the disk full, or when `interrupt` is set meanwhile; the target is not
    /// there then.
    pub fn run(self, interrupt: &AtomicBool, wrote: impl FnMut(u64)) -> Result<Summary, Error> {
        let Plan { reader, mut target, summary } = self;
        copy(reader.as_ref(), &mut target, interrupt, wrote)?;
        target.finish()?;
        Ok(summary)
    }
}

/// Tensors that have been read and wait to be written take no more memory than this, unless one alone does.
const READ_AHEAD: usize = 1 << 30;

enum Data<'a> {
    Borrowed(&'a [u8]),
    Owned(HostArray),
}

impl Data<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Borrowed(bytes) => bytes,
            Data::Owned(array) => array.bytes(),
        }
    }
}

/// Reads on one thread and writes on another.
fn copy(
    reader: &dyn Reader,
    target: &mut Target,
    interrupt: &AtomicBool,
    mut wrote: impl FnMut(u64),
) -> Result<(), Error> {
    let order = target.order().to_vec();
    let (to_writer, from_reader) = mpsc::channel();
    let (to_reader, from_writer) = mpsc::channel::<usize>();
    thread::scope(|scope| {
        let order = &order;
        scope.spawn(move || {
            let mut ahead = 0;
            for (name, shape) in order {
                let size = shape.num_bytes();
                while ahead > 0 && ahead + size > READ_AHEAD {
                    match from_writer.recv() {
                        Ok(written) => ahead -= written,
                        Err(mpsc::RecvError) => return,
                    }
                }
                ahead += size;
                let data = read(reader, name);
                let failed = data.is_err();
                if to_writer.send(data).is_err() || failed {
                    return;
                }
            }
        });
        for (name, shape) in order {
            // The thread sends one result for each tensor, or an error as its last.
            let Ok(data) = from_reader.recv() else { break };
            let data = data?;
            // Large tensors take seconds; whoever interrupts waits for one of them at most.
            if interrupt.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            target.write(name, shape, data.bytes())?;
            drop(data);
            reader.release(name);
            // When all has been read, nobody listens any more.
            let _ = to_reader.send(shape.num_bytes());
            wrote(shape.num_bytes() as u64);
        }
        Ok(())
    })
}

fn read<'a>(reader: &'a dyn Reader, name: &str) -> Result<Data<'a>, checkpoint::Error> {
    Ok(match reader.borrow(name)? {
        Some(bytes) => Data::Borrowed(bytes),
        None => Data::Owned(reader.read(name)?),
    })
}

/// What a checkpoint has of the model that its shapes say it is, and what it has besides.
fn report(variant: &Variant, reader: &dyn Reader) -> Result<Report, params::Error> {
    let specs = model_of(variant).params()?;
    Ok(checkpoint::compare(&specs, reader, &Patterns::default()))
}

/// A model of a variant's sizes. What shapes do not tell is as in any model of its generation.
fn model_of(variant: &Variant) -> PaliGemmaConfig {
    let (img, llm) = (&variant.sizes.img, &variant.sizes.llm);
    let kind = if llm.post_norms { "gemma2_2b" } else { "gemma_2b" };
    let published = "the names are those of the table of published sizes";
    let llm = GemmaConfig {
        width: llm.width,
        depth: llm.depth,
        mlp_dim: llm.mlp_dim,
        num_heads: llm.num_heads,
        num_kv_heads: llm.num_kv_heads,
        head_dim: llm.head_dim,
        vocab_size: llm.vocab_size,
        post_norms: llm.post_norms,
        ..GemmaConfig::variant(kind).expect(published)
    };
    // Patches that make no square are taken as a column of them: only their number is in a shape.
    let [height, width] = img.patch_size;
    let column = [img.num_patches.unwrap_or(1) * height, width];
    PaliGemmaConfig {
        img: SiglipConfig {
            width: img.width,
            depth: img.depth,
            mlp_dim: img.mlp_dim,
            num_heads: img.num_heads,
            patch_size: img.patch_size,
            pool_type: PoolType::None,
            posemb: if img.num_patches.is_some() { PosEmb::Learn } else { PosEmb::SinCos2d },
            ..SiglipConfig::variant("So400m/14").expect(published)
        },
        llm,
        image_size: variant.image_size().unwrap_or(column),
        lora: None,
    }
}

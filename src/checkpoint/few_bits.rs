use std::path::Path;

use indexmap::IndexMap;

use super::reader::check_size;
use super::{Error, Reader};
use crate::array::{DType, HostArray, Shape};
use crate::params::Quant;

/// A reader below whose `quant/` are the scales of kernels in few bits, with those kernels as `f32` and without the
/// scales.
pub(super) struct FewBits {
    reader: Box<dyn Reader>,
    kernels: IndexMap<String, (Quant, Shape)>,
    names: Vec<String>,
}

/// Below which prefix scales lie.
const ROOT: &str = "quant/";

impl FewBits {
    /// Whether parameters of these names are in few bits.
    pub fn is_here<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
        names.into_iter().any(|name| name.starts_with(ROOT))
    }

    pub fn new(reader: Box<dyn Reader>) -> Self {
        let mut kernels = IndexMap::new();
        for name in reader.names() {
            let kernel = name.strip_prefix(ROOT).and_then(|name| name.strip_suffix("/scale"));
            let Some((kernel, codes)) = kernel.and_then(|kernel| Some((kernel, reader.find(kernel)?))) else {
                continue;
            };
            if let Some(quant) = Quant::of_codes(codes.dtype()) {
                kernels.insert(kernel.to_owned(), (quant, quant.kernel_shape(codes, DType::F32)));
            }
        }
        let names = reader.names().into_iter().filter(|name| !name.starts_with(ROOT));
        let names = names.map(str::to_owned).collect();
        FewBits { reader, kernels, names }
    }
}

impl Reader for FewBits {
    fn path(&self) -> &Path {
        self.reader.path()
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        match self.kernels.get(name) {
            Some((_, shape)) => Some(shape),
            None => self.reader.find(name).filter(|_| !name.starts_with(ROOT)),
        }
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        check_size(name, self.shape(name)?, out)?;
        if !self.kernels.contains_key(name) {
            return self.reader.read_into(name, out);
        }
        out.copy_from_slice(self.read(name)?.bytes());
        Ok(())
    }

    fn read(&self, name: &str) -> Result<HostArray, Error> {
        self.shape(name)?;
        match self.kernels.get(name) {
            None => self.reader.read(name),
            Some((quant, _)) => {
                let scales = self.reader.read(&format!("{ROOT}{name}/scale"))?;
                Ok(quant.dequantise(&self.reader.read(name)?, &scales))
            }
        }
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        if self.kernels.contains_key(name) { Ok(None) } else { self.reader.borrow(name) }
    }

    fn release(&self, name: &str) {
        self.reader.release(name);
    }
}

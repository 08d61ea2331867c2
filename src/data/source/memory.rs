use super::{Error, Row, Source, fingerprint, out_of_range};

/// Rows held in memory: for tests, benches and rows made by the program itself.
#[derive(Debug, Clone)]
pub struct MemorySource {
    name: String,
    rows: Vec<Row>,
}

impl MemorySource {
    pub fn new(name: impl Into<String>, rows: Vec<Row>) -> Self {
        MemorySource { name: name.into(), rows }
    }
}

impl Source for MemorySource {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        self.rows.get(index).cloned().ok_or_else(|| out_of_range(self, index))
    }

    fn describe(&self) -> String {
        format!("{} ({} rows in memory)", self.name, self.rows.len())
    }

    fn locate(&self, index: usize) -> String {
        format!("{}[{index}]", self.name)
    }

    fn fingerprint(&self) -> u64 {
        fingerprint([&self.name, &self.rows.len().to_string()])
    }
}

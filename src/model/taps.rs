use crate::graph::Value;

/// Intermediate values, noted under the reference's names when somebody asks for them.
#[derive(Debug, Default)]
pub struct Taps {
    wanted: bool,
    values: Vec<(String, Value)>,
}

impl Taps {
    /// Notes nothing: for training.
    pub fn none() -> Self {
        Taps::default()
    }

    /// Notes everything: for comparison with recordings.
    pub fn all() -> Self {
        Taps { wanted: true, values: Vec::new() }
    }

    pub fn wanted(&self) -> bool {
        self.wanted
    }

    pub fn put(&mut self, name: impl Into<String>, value: &Value) {
        if self.wanted {
            self.values.push((name.into(), value.clone()));
        }
    }

    pub fn into_values(self) -> Vec<(String, Value)> {
        self.values
    }
}

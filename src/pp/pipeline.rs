//! A parsed pp string.

use std::fmt;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::registry::{self, Run};
use super::{Env, Error, Example, spec};

/// A pp string, ready to run. Shared between threads by reference.
pub struct Pipeline {
    steps: Vec<Step>,
}

struct Step {
    name: String,
    /// The section of the pp string, for messages.
    section: String,
    run: Run,
}

impl Pipeline {
    /// Parses `pp` and opens what it refers to.
    ///
    /// # Errors
    /// When the string, a name or an argument is wrong, or a tokenizer is missing; the message shows where.
    pub fn parse(pp: &str, env: &Env) -> Result<Self, Error> {
        let fail = |error: spec::SyntaxError| Error::Parse {
            pp: pp.to_owned(),
            at: error.at,
            message: error.message,
        };
        let sections = pp.split('|').filter(|section| !section.is_empty());
        let mut steps = Vec::new();
        for (call, section) in spec::parse(pp).map_err(fail)?.into_iter().zip(sections) {
            let name = call.name.clone();
            let run = registry::make(call, env).map_err(fail)?;
            steps.push(Step { name, section: section.to_owned(), run });
        }
        Ok(Pipeline { steps })
    }

    /// Applies all ops. The result depends on nothing but the example and `seed`; every op draws from its
    /// own stream of random numbers, so that a change of one does not disturb the others.
    ///
    /// # Errors
    /// When an op cannot work on this example; the error names the op.
    pub fn run(&self, example: Example, seed: u64) -> Result<Example, Error> {
        self.run_observed(example, seed, |_, _| {})
    }

    /// As [`run`](Self::run); `observe` is shown the example after each op, with the op's name.
    ///
    /// # Errors
    /// As there.
    pub fn run_observed(
        &self,
        mut example: Example,
        seed: u64,
        mut observe: impl FnMut(&str, &Example),
    ) -> Result<Example, Error> {
        for (index, step) in self.steps.iter().enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(index as u64);
            (step.run)(&mut example, &mut rng).map_err(|source| Error::Run {
                op: step.section.clone(),
                index,
                source,
            })?;
            observe(&step.name, &example);
        }
        Ok(example)
    }

    /// Names of the ops, in order.
    pub fn op_names(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.name.as_str())
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| &step.section)).finish()
    }
}

use std::sync::Arc;
use std::thread;

use super::{Error, PpPreprocess, source};
use crate::config::{self, Input, InputData, Loaded, MixedSource, ShuffleReach};
use crate::data::{Cached, Shuffle, Stream};
use crate::pp::Env;

/// The training data of a config: one stream, or those of a mixture whose weight is not 0. `keep` are the
/// arrays that the model takes, of whose tokens `vocab_size` are known.
///
/// # Errors
/// Sources that cannot be opened, wrong pp strings.
pub fn streams(
    loaded: &Loaded,
    env: &Env,
    input: &Input,
    keep: &'static [&'static str],
    vocab_size: usize,
) -> Result<Vec<Stream>, Error> {
    let keep_only = input.keep_only.as_deref();
    let make = |name: &str, weight: f64, section: &MixedSource| {
        let mut source = source(&section.data)?;
        if section.cache_raw {
            source = Arc::new(Cached::new(source, section.cache_raw_mb.saturating_mul(1_000_000)));
        }
        let key = if name.is_empty() { "input.pp".to_owned() } else { format!("input.{name}.pp") };
        let preprocess = PpPreprocess::new(loaded, env, &key, &section.pp, Some(keep), vocab_size)?;
        Ok(Stream {
            name: name.to_owned(),
            source,
            preprocess: Arc::new(preprocess.keep_only(keep_only)),
            weight,
            shuffle: shuffle(section),
            skip_errors: section.skip_errors,
        })
    };
    let weights = match &input.data {
        InputData::Source(data) => return Ok(vec![make("", 1.0, &alone(input, data))?]),
        InputData::Mixture(weights) => weights,
    };
    let named = weights.iter().filter(|(_, weight)| **weight > 0.0);
    let named = named.filter_map(|(name, weight)| Some((name, *weight, input.sources.0.get(name)?)));
    // Opening a source may mean to read all of it.
    thread::scope(|scope| {
        let make = &make;
        let made: Vec<_> =
            named.map(|(name, weight, section)| scope.spawn(move || make(name, weight, section))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Stream, Error>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        made.into_iter().map(join).collect()
    })
}

/// A source that is not mixed has its section's keys in `input` itself.
pub fn alone(input: &Input, data: &config::Source) -> MixedSource {
    MixedSource {
        data: data.clone(),
        pp: input.pp.clone(),
        shuffle_buffer_size: input.shuffle_buffer_size,
        shuffle_reach: input.shuffle_reach,
        cache_raw: input.cache_raw,
        cache_raw_mb: input.cache_raw_mb,
        skip_errors: input.skip_errors,
    }
}

/// How a section says that its source is shuffled.
pub fn shuffle(section: &MixedSource) -> Shuffle {
    match (section.shuffle_buffer_size, section.shuffle_reach) {
        (None, _) => Shuffle::InOrder,
        (Some(buffer), ShuffleReach::Epoch) => Shuffle::Whole { buffer },
        (Some(buffer), ShuffleReach::Buffer) => Shuffle::Buffer { buffer },
    }
}

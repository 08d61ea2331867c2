//! The table of ops: one row each.

use std::sync::LazyLock;

use rand_chacha::ChaCha8Rng;

use super::args::{Args, Param, Signature};
use super::literal::Literal;
use super::nearest::nearest;
use super::spec::{Call, SyntaxError};
use super::value::{Example, Value};
use super::{Env, Problem};

/// Works on one value. The random numbers are this op's own for this example.
pub(super) type Map = Box<dyn Fn(Value, &mut ChaCha8Rng) -> Result<Value, Problem> + Send + Sync>;
/// Works on a whole example.
pub(super) type Run = Box<dyn Fn(&mut Example, &mut ChaCha8Rng) -> Result<(), Problem> + Send + Sync>;

type Made<T> = Result<T, SyntaxError>;

/// A row of the table: how an op is called, what it does, and how it is made.
pub(super) struct Op {
    signature: &'static str,
    meaning: &'static str,
    make: Make,
}

enum Make {
    /// Adds big_vision's `key`, `inkey` and `outkey` with these defaults (`utils.InKeyOutKey`).
    Map {
        inkey: Option<&'static str>,
        outkey: Option<&'static str>,
        make: fn(&Args, &Env) -> Made<Map>,
    },
    Run(fn(&Args, &Env) -> Made<Run>),
}

/// A row for an op from the value at `inkey` to the value at `outkey`.
pub(super) const fn map(
    signature: &'static str,
    [inkey, outkey]: [Option<&'static str>; 2],
    meaning: &'static str,
    make: fn(&Args, &Env) -> Made<Map>,
) -> Op {
    Op { signature, meaning, make: Make::Map { inkey, outkey, make } }
}

/// A row for an op on whole examples.
pub(super) const fn run(
    signature: &'static str,
    meaning: &'static str,
    make: fn(&Args, &Env) -> Made<Run>,
) -> Op {
    Op { signature, meaning, make: Make::Run(make) }
}

/// Keys of most image ops.
pub(super) const IMAGE: [Option<&str>; 2] = [Some("image"), Some("image")];

/// What an op is called with and what it does.
#[derive(Debug, Clone, PartialEq)]
pub struct OpInfo {
    pub signature: Signature,
    pub meaning: &'static str,
}

struct Row {
    info: OpInfo,
    make: &'static Make,
}

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let tables = [
        super::ops_general::OPS,
        super::ops_text::OPS,
        super::ops_tokens::OPS,
        super::ops_image::OPS,
        super::ops_random::OPS,
        super::ops_video::OPS,
        super::ops_files::OPS,
    ];
    let mut rows: Vec<Row> = tables.into_iter().flatten().map(row).collect();
    rows.sort_by(|a, b| a.info.signature.name.cmp(&b.info.signature.name));
    rows
});

fn row(op: &'static Op) -> Row {
    let mut signature = Signature::parse(op.signature).expect("a test reads every signature of the table");
    if let Make::Map { inkey, outkey, .. } = op.make {
        for (name, default) in [("key", None), ("inkey", inkey), ("outkey", outkey)] {
            let default = default.map_or(Literal::None, |key| Literal::Str(key.to_owned()));
            signature.params.push(Param {
                name: name.to_owned(),
                default: Some(default),
                keyword_only: true,
            });
        }
    }
    Row { info: OpInfo { signature, meaning: op.meaning }, make: &op.make }
}

/// All ops, by name.
pub fn ops() -> impl Iterator<Item = &'static OpInfo> {
    ROWS.iter().map(|row| &row.info)
}

/// Makes the op that `call` names.
pub(super) fn make(call: Call, env: &Env) -> Made<Run> {
    let Some(row) = ROWS.iter().find(|row| row.info.signature.name == call.name) else {
        let name = &call.name;
        let hint = match name.trim() == name {
            true => nearest(name, ops().map(|op| op.signature.name.as_str())),
            false => ", remove the blank behind the name".to_owned(),
        };
        return Err(SyntaxError { at: call.at, message: format!("unknown pp op `{name}`{hint}") });
    };
    let args = row.info.signature.bind(call)?;
    match row.make {
        Make::Run(make) => make(&args, env),
        Make::Map { make, .. } => {
            let key = args.opt_str("key")?;
            let of = |name: &str| -> Made<String> {
                let found = args.opt_str(name)?;
                key.clone().or(found).ok_or_else(|| args.error("needs `key`, or `inkey` and `outkey`"))
            };
            let (inkey, outkey) = (of("inkey")?, of("outkey")?);
            let map = make(&args, env)?;
            Ok(Box::new(move |example, rng| {
                let value = map(example.take(&inkey, &outkey)?, rng)?;
                example.insert(outkey.as_str(), value);
                Ok(())
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_well_formed_and_named_once() {
        let names: Vec<_> = ops().map(|op| op.signature.name.as_str()).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
        for op in ops() {
            assert!(!op.meaning.is_empty() && !op.meaning.ends_with('.'), "{}", op.signature.name);
        }
    }
}

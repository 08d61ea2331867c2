//! Signatures of ops, and the arguments bound to them as Python binds them.

use super::literal::Literal;
use super::nearest::nearest;
use super::spec::{Call, Parser, SyntaxError};

/// Parameters of an op, read from a line like `choice(n='single', key=None, *, fewer_ok=False)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    pub name: String,
    pub params: Vec<Param>,
    /// `*keys`: any number of values.
    pub var_args: Option<String>,
    /// `**masks`: any other named values.
    pub var_kwargs: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    pub name: String,
    /// None: the argument must be given.
    pub default: Option<Literal>,
    pub keyword_only: bool,
}

impl Signature {
    pub(super) fn parse(line: &str) -> Result<Signature, SyntaxError> {
        let mut parser = Parser::new(line);
        let name = parser.identifier("a name")?;
        let mut signature = Signature { name, params: Vec::new(), var_args: None, var_kwargs: None };
        let mut keyword_only = false;
        if parser.peek().is_none() {
            return Ok(signature);
        }
        parser.items(')', |parser| {
            if parser.take("**") {
                signature.var_kwargs = Some(parser.identifier("a name")?);
            } else if parser.take("*") {
                keyword_only = true;
                if parser.peek() != Some(',') {
                    signature.var_args = Some(parser.identifier("a name")?);
                }
            } else {
                let name = parser.identifier("a name")?;
                let default = if parser.take("=") { Some(parser.literal()?) } else { None };
                signature.params.push(Param { name, default, keyword_only });
            }
            Ok(())
        })?;
        Ok(signature)
    }

    pub(super) fn bind(&self, call: Call) -> Result<Args, SyntaxError> {
        let fail =
            |at, message: String| Err(SyntaxError { at, message: format!("{}: {message}", self.name) });
        let mut args = Args {
            name: self.name.clone(),
            at: call.at,
            values: Vec::new(),
            rest: Vec::new(),
            extra: Vec::new(),
        };
        let mut positional = self.params.iter().filter(|param| !param.keyword_only);
        for (value, at) in call.args {
            match positional.next() {
                Some(param) => args.values.push((param.name.clone(), value, at)),
                None if self.var_args.is_some() => args.rest.push((value, at)),
                None => {
                    let most = self.params.iter().filter(|param| !param.keyword_only).count();
                    return fail(at, format!("takes at most {most} arguments without a name"));
                }
            }
        }
        for (name, value, at) in call.kwargs {
            if args.values.iter().any(|(known, ..)| *known == name) {
                return fail(at, format!("argument `{name}` is given twice"));
            }
            if self.params.iter().any(|param| param.name == name) {
                args.values.push((name, value, at));
            } else if self.var_kwargs.is_some() {
                args.extra.push((name, value, at));
            } else {
                let names = self.params.iter().map(|param| param.name.as_str());
                return fail(at, format!("has no argument `{name}`{}", nearest(&name, names)));
            }
        }
        for param in &self.params {
            if !args.values.iter().any(|(known, ..)| *known == param.name) {
                match &param.default {
                    Some(value) => args.values.push((param.name.clone(), value.clone(), call.at)),
                    None => return fail(call.at, format!("needs argument `{}`", param.name)),
                }
            }
        }
        Ok(args)
    }
}

/// Arguments of one call, defaults filled in.
#[derive(Debug, Clone)]
pub(super) struct Args {
    name: String,
    at: usize,
    values: Vec<(String, Literal, usize)>,
    /// What `*keys` took.
    rest: Vec<(Literal, usize)>,
    /// What `**masks` took.
    extra: Vec<(String, Literal, usize)>,
}

type Result<T, E = SyntaxError> = std::result::Result<T, E>;

impl Args {
    /// The value of a parameter of the signature.
    pub fn get(&self, name: &str) -> &Literal {
        self.entry(name).0
    }

    fn entry(&self, name: &str) -> (&Literal, usize) {
        let found = self.values.iter().find(|(known, ..)| known == name);
        let (_, value, at) =
            found.expect("ops ask only for parameters of their signature, all of which are bound");
        (value, *at)
    }

    /// An error at the argument `name`.
    pub fn wrong(&self, name: &str, message: impl std::fmt::Display) -> SyntaxError {
        SyntaxError { at: self.entry(name).1, message: format!("{}: `{name}` {message}", self.name) }
    }

    /// An error of the whole call.
    pub fn error(&self, message: impl std::fmt::Display) -> SyntaxError {
        SyntaxError { at: self.at, message: format!("{}: {message}", self.name) }
    }

    /// The name of the op.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn expected(&self, name: &str, what: &str) -> SyntaxError {
        self.wrong(name, format!("must be {what}, not {}", self.get(name)))
    }

    pub fn is_none(&self, name: &str) -> bool {
        *self.get(name) == Literal::None
    }

    pub fn int(&self, name: &str) -> Result<i64> {
        match self.get(name) {
            Literal::Int(value) => Ok(*value),
            _ => Err(self.expected(name, "an integer")),
        }
    }

    pub fn usize(&self, name: &str) -> Result<usize> {
        let value = usize::try_from(self.int(name)?).ok().filter(|&value| value <= MAX_EXTENT);
        value.ok_or_else(|| self.expected(name, &format!("between 0 and {MAX_EXTENT}")))
    }

    pub fn float(&self, name: &str) -> Result<f64> {
        self.get(name).as_f64().ok_or_else(|| self.expected(name, "a number"))
    }

    /// A number, or one for each channel.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let value = self.get(name);
        let items = value.items().unwrap_or(std::slice::from_ref(value));
        let floats: Option<Vec<f32>> = items.iter().map(|item| item.as_f64().map(|v| v as f32)).collect();
        floats.ok_or_else(|| self.expected(name, "a number or a list of numbers"))
    }

    pub fn bool(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            Literal::Bool(value) => Ok(*value),
            Literal::Int(value @ (0 | 1)) => Ok(*value == 1),
            _ => Err(self.expected(name, "True or False")),
        }
    }

    pub fn str(&self, name: &str) -> Result<String> {
        match self.get(name) {
            Literal::Str(text) => Ok(text.clone()),
            _ => Err(self.expected(name, "a string")),
        }
    }

    /// None for `None` and, as Python's `or` has it, for the empty string.
    pub fn opt_str(&self, name: &str) -> Result<Option<String>> {
        match self.get(name) {
            Literal::None => Ok(None),
            Literal::Str(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            _ => Err(self.expected(name, "a string or None")),
        }
    }

    /// A string or a list of strings.
    pub fn strs(&self, name: &str) -> Result<Vec<String>> {
        let value = self.get(name);
        let items = value.items().unwrap_or(std::slice::from_ref(value));
        let as_str = |item: &Literal| match item {
            Literal::Str(text) => Some(text.clone()),
            _ => None,
        };
        let strs: Option<Vec<String>> = items.iter().map(as_str).collect();
        strs.ok_or_else(|| self.expected(name, "a string or a list of strings"))
    }

    /// `224` or `(448, 224)`: height and width, both at least 1.
    pub fn size(&self, name: &str) -> Result<[usize; 2]> {
        let value = self.get(name);
        let size = match value.items() {
            Some([Literal::Int(height), Literal::Int(width)]) => Some([*height, *width]),
            Some(_) => None,
            None => {
                if let Literal::Int(side) = value {
                    Some([*side; 2])
                } else {
                    None
                }
            }
        };
        let size = size.filter(|sides| sides.iter().all(|side| (1..=MAX_EXTENT as i64).contains(side)));
        let size = size.map(|sides| sides.map(|side| side as usize));
        size.ok_or_else(|| self.expected(name, "a size or a pair (height, width)"))
    }

    /// A list whose items are integers or None.
    pub fn shape(&self, name: &str) -> Result<Vec<Option<i64>>> {
        let extent = |item: &Literal| match item {
            Literal::Int(value) if *value >= -1 && *value <= MAX_EXTENT as i64 => Some(Some(*value)),
            Literal::None => Some(None),
            _ => None,
        };
        let shape = self.get(name).items().and_then(|items| items.iter().map(extent).collect());
        shape.ok_or_else(|| self.expected(name, "a list of extents"))
    }

    /// One of the words in `known`.
    pub fn word(&self, name: &str, known: &[&str]) -> Result<String> {
        let word = self.str(name)?;
        if known.contains(&word.as_str()) {
            return Ok(word);
        }
        Err(self.wrong(name, format!("must be one of {}, not {word:?}", known.join(", "))))
    }

    /// What `*keys` took, all of which must be strings.
    pub fn rest_strs(&self) -> Result<Vec<String>> {
        let as_str = |(item, at): &(Literal, usize)| match item {
            Literal::Str(text) => Ok(text.clone()),
            other => {
                Err(SyntaxError { at: *at, message: format!("{}: must be a string, not {other}", self.name) })
            }
        };
        self.rest.iter().map(as_str).collect()
    }

    pub fn extra(&self) -> impl Iterator<Item = (&str, &Literal, usize)> {
        self.extra.iter().map(|(name, value, at)| (name.as_str(), value, *at))
    }
}

/// No extent of an image or sequence is larger; it keeps a slip of the pen from asking for terabytes.
const MAX_EXTENT: usize = 1 << 24;

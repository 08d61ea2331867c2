//! Declared arguments: `args: {res: 224}` at the top, `{res}` in strings, `--arg res=448` on the command
//! line.
//!
//! Braces around a declared name are replaced, also with integer arithmetic on it (`tolen({text_len+1})`,
//! `{res*8//7}`). All other braces stay: `strfmt("{caption}")` is left alone unless `caption` is declared, in
//! which case `{{caption}}` stands for `{caption}`. A string that is nothing but `"{res}"` takes the
//! argument's type.

use super::decode::Decoder;
use super::error::suggest;
use super::node::{Entry, Kind, Node, Span};

/// An argument's name and value.
pub(super) type Arg = (String, Node);

/// Takes `args` out of the config, gives its entries the values of `--arg`, and puts them into every string.
/// `given` holds name, text and the source that excerpts quote.
pub(super) fn apply(root: &mut Node, given: &[(String, String, usize)], decoder: &mut Decoder) -> Vec<Arg> {
    let mut args = take(root, decoder);
    for (name, text, source) in given {
        let span = Span { source: *source, line: 1, column: "--arg ".len() + 1, len: name.chars().count() };
        let Some(index) = args.iter().position(|(other, _)| other == name) else {
            let known = match args.is_empty() {
                true => "the config declares none".to_owned(),
                false => suggest(name, args.iter().map(|(name, _)| name.as_str())),
            };
            decoder.problem::<()>(span, format!("unknown argument \"{name}\", {known}"));
            continue;
        };
        let column = span.column + span.len + 1;
        let span = Span { column, len: text.chars().count(), ..span };
        match typed(text, &args[index].1, span) {
            Ok(value) => args[index].1 = value,
            Err(message) => {
                decoder.within("args", |d| {
                    d.within(name, |d| d.problem::<()>(span, format!("--arg {name}: {message}")))
                });
            }
        }
    }
    // A default may use the arguments above it.
    for index in 0..args.len() {
        let (before, rest) = args.split_at_mut(index);
        substitute(&mut rest[0].1, before);
    }
    substitute(root, &args);
    args
}

fn take(root: &mut Node, decoder: &mut Decoder) -> Vec<Arg> {
    let Kind::Map(entries) = &mut root.kind else { return Vec::new() };
    let Some(index) = entries.iter().position(|entry| entry.key == "args") else { return Vec::new() };
    let Entry { node, .. } = entries.remove(index);
    let declared = match node.kind {
        Kind::Map(declared) => declared,
        Kind::Null => Vec::new(),
        _ => {
            decoder.within("args", |d| d.expected::<()>(&node, "a mapping of names to defaults"));
            Vec::new()
        }
    };
    let mut args = Vec::new();
    for Entry { key, span, node } in declared {
        if is_name(&key) {
            args.push((key, node));
        } else {
            let message = format!("argument \"{key}\" is not a name (letters, digits and _, no digit first)");
            decoder.within("args", |d| d.problem::<()>(span, message));
        }
    }
    args
}

fn is_name(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().all(word) && text.starts_with(|c: char| !c.is_ascii_digit())
}

/// The text of an `--arg` in the type of its default.
fn typed(text: &str, default: &Node, span: Span) -> Result<Node, String> {
    let node = |kind| Ok(Node { kind, span });
    let like = |what: &str| format!("\"{text}\" is not {what}, like its default {}", default.to_json());
    match &default.kind {
        Kind::Str(_) => node(Kind::Str(text.to_owned())),
        Kind::Bool(_) => match text.to_lowercase().as_str() {
            "true" => node(Kind::Bool(true)),
            "false" => node(Kind::Bool(false)),
            _ => Err(like("true or false")),
        },
        Kind::Int(_) => text.parse().map_or_else(|_| Err(like("an integer")), |value| node(Kind::Int(value))),
        Kind::Float(_) => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => node(Kind::Float(value)),
            _ => Err(like("a number")),
        },
        Kind::Null | Kind::List(_) | Kind::Map(_) => match Node::parse(text, span.source) {
            Ok(value) => node(value.kind),
            Err(error) => Err(error.message),
        },
    }
}

fn substitute(node: &mut Node, args: &[Arg]) {
    match &mut node.kind {
        Kind::Str(text) => {
            if let Some(kind) = replaced(text, args) {
                node.kind = kind;
            }
        }
        Kind::List(items) => items.iter_mut().for_each(|item| substitute(item, args)),
        Kind::Map(entries) => entries.iter_mut().for_each(|entry| substitute(&mut entry.node, args)),
        Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) => {}
    }
}

/// The value of a string with its arguments filled in, `None` when it holds none.
fn replaced(text: &str, args: &[Arg]) -> Option<Kind> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let escaped = rest.strip_prefix("{{").and_then(|inner| inner.split_once("}}"));
        if let Some((inner, after)) = escaped.filter(|(inner, _)| evaluate(inner, args).is_some()) {
            out.push_str(&format!("{{{inner}}}"));
            (rest, changed) = (after, true);
            continue;
        }
        let braced = rest[1..].split_once('}');
        match braced.and_then(|(inner, after)| Some((evaluate(inner, args)?, after))) {
            Some((value, "")) if rest.len() == text.len() => return Some(value.kind),
            Some((value, after)) => {
                out.push_str(&plain(&value));
                (rest, changed) = (after, true);
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    changed.then_some(Kind::Str(out))
}

fn plain(value: &Node) -> String {
    match &value.kind {
        Kind::Str(text) => text.clone(),
        // As Python writes them, since they end up in pp strings and file names.
        Kind::Null => "None".to_owned(),
        Kind::Bool(true) => "True".to_owned(),
        Kind::Bool(false) => "False".to_owned(),
        Kind::Int(value) => value.to_string(),
        Kind::Float(value) => format!("{value:?}"),
        Kind::List(_) | Kind::Map(_) => value.to_json().to_string(),
    }
}

/// The value of `name` or of integer arithmetic (`+ - * //`) that begins with a declared name; `None` for
/// anything else, which is then no substitution.
fn evaluate(expression: &str, args: &[Arg]) -> Option<Node> {
    let declared = |name: &str| args.iter().find(|(other, _)| other == name).map(|(_, value)| value);
    if let Some(value) = declared(expression) {
        return Some(value.clone());
    }
    let mut tokens = tokens(expression)?.into_iter();
    declared(tokens.clone().next()?)?;
    let operand = |token: Option<&str>| -> Option<i64> {
        let token = token?;
        match declared(token).map(|value| &value.kind) {
            Some(Kind::Int(value)) => Some(*value),
            Some(_) => None,
            None => token.parse().ok(),
        }
    };
    // `sum` holds the finished terms, `term` the product that is being read.
    let (mut sum, mut term) = (0i64, operand(tokens.next())?);
    while let Some(operator) = tokens.next() {
        let right = operand(tokens.next())?;
        match operator {
            "+" => (sum, term) = (sum.checked_add(term)?, right),
            "-" => (sum, term) = (sum.checked_add(term)?, right.checked_neg()?),
            "*" => term = term.checked_mul(right)?,
            // Python's floor division.
            "//" if right != 0 => {
                let quotient = term.checked_div(right)?;
                let inexact = term % right != 0 && (term < 0) != (right < 0);
                term = quotient - i64::from(inexact);
            }
            _ => return None,
        }
    }
    Some(Kind::Int(sum.checked_add(term)?).into())
}

/// Names, integers and operators, `None` when there is anything else.
fn tokens(text: &str) -> Option<Vec<&str>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let len = match first {
            '+' | '-' | '*' => 1,
            '/' if rest.starts_with("//") => 2,
            _ if word > 0 => word,
            _ => return None,
        };
        tokens.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Vec<Arg> {
        let args = [
            ("res", Kind::Int(224)),
            ("name", Kind::Str("coco".into())),
            ("rate", Kind::Float(0.5)),
            ("on", Kind::Bool(true)),
        ];
        args.map(|(name, kind)| (name.to_owned(), kind.into())).to_vec()
    }

    fn fill(text: &str) -> Kind {
        replaced(text, &args()).unwrap_or_else(|| Kind::Str(text.to_owned()))
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(fill(text), Kind::Str(expected.to_owned()), "{text}");
    }

    #[test]
    fn only_declared_names_are_replaced() {
        check("resize({res})|x({name})", "resize(224)|x(coco)");
        check("strfmt(\"{caption}\", {res})", "strfmt(\"{caption}\", 224)");
        check("{}", "{}");
        check("{{caption}}", "{{caption}}");
        check("{{res}} {res}", "{res} 224");
        check("a{b{res}c}", "a{b224c}");
        check("{res", "{res");
        check("{rate} {on}", "0.5 True");
        check("{\"res\": 1}", "{\"res\": 1}");
    }

    #[test]
    fn a_whole_string_takes_the_type() {
        assert_eq!(fill("{res}"), Kind::Int(224));
        assert_eq!(fill("{rate}"), Kind::Float(0.5));
        assert_eq!(fill("{res+1}"), Kind::Int(225));
        check("{res}{res}", "224224");
    }

    #[test]
    fn arithmetic_is_python_s() {
        check("_{res + 1}", "_225");
        check("_{res*8//7}", "_256");
        check("_{res-2*res}", "_-224");
        check("_{res*0-7//2}", "_3".replace('3', "-4").as_str());
        for untouched in [
            "_{1+res}",
            "_{res+}",
            "_{res//0}",
            "_{res+name}",
            "_{res/2}",
            "_{res 2}",
            "_{res*9223372036854775807}",
        ] {
            check(untouched, untouched);
        }
    }
}

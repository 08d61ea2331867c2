use std::sync::LazyLock;

use regex::Regex;

use super::lexicon;

/// What becomes of a piece of text.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A word to which a clitic or a full stop may be attached.
    Word,
    /// As it is.
    Token,
    /// As it is, where no letter or digit follows.
    Ending,
    /// An apostrophe and what it joins to the word before, where no letter or digit follows.
    Clitic,
    /// As it is, but its blanks do not end it and its parentheses are spelled out.
    Grouped,
    /// The same where no letter or digit follows.
    Emoticon,
    /// Other text than was written.
    As(&'static str),
    /// Punctuation that does not count, and what cannot be read.
    Nothing,
}

struct Rule {
    pattern: Regex,
    kind: Kind,
}

/// Letters and digits of the basic multilingual plane, also with soft hyphens.
macro_rules! word {
    () => {
        r"[\p{L}\p{M}\p{Nd}\u{ad}&&[\u{0}-\u{ffff}]]+"
    };
}

/// Letters only.
macro_rules! letters {
    () => {
        r"[\p{L}\p{M}&&[\u{0}-\u{ffff}]]+"
    };
}

/// An apostrophe, however it is written.
macro_rules! apostrophe {
    () => {
        "(?:['’]|&apos;)"
    };
}

/// What a caption's tokens look like. The longest match counts, of equals the first.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    use Kind::{As, Clitic, Emoticon, Ending, Grouped, Nothing, Token, Word};
    let rules: &[(&str, Kind)] = &[
        // Words with hyphens or underscores, with slashes, with full stops or other marks between letters.
        (concat!(word!(), "(?:[-_]", word!(), ")*"), Word),
        (concat!(word!(), "(?:-", word!(), ")*(?:/", word!(), "(?:-", word!(), ")*){1,2}"), Word),
        (concat!(word!(), r"(?:\.", letters!(), "(?:", word!(), ")?)+(?:-", word!(), ")*"), Word),
        (concat!(word!(), r"(?:\.", word!(), ")+(?:-", word!(), ")+"), Word),
        (concat!(letters!(), "(?:[!?]", letters!(), ")+"), Word),
        (concat!(r"\d+(?:[.,]\d+)+(?:-", word!(), ")+"), Word),
        // Acronyms and the like.
        (concat!(r"[A-Za-z](?:\.[A-Za-z])+\.(?:-", word!(), ")*"), Word),
        (r"[A-Z]+(?:(?:\+|&(?:amp;)?)[A-Z]+)+", Word),
        (r"[Cc]\+\+|[CcFf]#", Word),
        // Words with an apostrophe inside, at the beginning or at the end.
        (concat!("(?:[DLNOdlno]|[A-HJ-XZ])", apostrophe!(), letters!()), Word),
        (concat!("(?i)(?:ma'am|n?e'er|ev'ry|cap'n|nat'l|c'mon|c'est|s'mores|qu'", letters!(), ")"), Ending),
        ("(?i)(?:'tis|'twas|'em|'cause|'till?|'[2-9]0s?|'n|ol'|n't)", Ending),
        ("(?i)'n'", Token),
        (concat!("(?i)[djly]", apostrophe!()), Token),
        (concat!(apostrophe!(), "(?i:s|m|d|ll|re|ve)"), Clitic),
        // Numbers, fractions, telephone numbers.
        (r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)", Token),
        (r"(?:\d{1,4}[- ])?\d{1,4}/\d{1,4}", Grouped),
        (r"\([0-9]{2,3}\) ?[0-9]{3,4}[- ]?[0-9]{4}", Grouped),
        ("½", As("1/2")),
        ("¼", As("1/4")),
        ("¾", As("3/4")),
        ("⅓", As("1/3")),
        ("⅔", As("2/3")),
        // Money.
        (r"[A-Z]+\$", Token),
        (r"\$", Token),
        ("£", As("#")),
        ("[€₠¤]", As("$")),
        ("¢", As("cents")),
        // Addresses and names of the web.
        (r#"https?://[^\s"<>|()]*[^\s"<>|().!?,;:{}-]"#, Token),
        (r#"www\.[^\s"<>|()']*[^\s"<>|()'.!?,;:{}-]"#, Token),
        (r#"<?[A-Za-z0-9][^\s"<>|()]*@(?:[^\s"<>|().]+\.)*[^\s"<>|().]+>?"#, Token),
        (r"[@#][\p{L}_]\w*", Token),
        ("<!--.*?-->", Grouped),
        (r#"</?[A-Za-z][A-Za-z0-9_:.-]*(?: +[A-Za-z][A-Za-z0-9_:.-]*(?:="[^"]*"|='[^']*')?)* */?>"#, Grouped),
        ("(?i)&amp;", As("&")),
        ("(?i)&lt;", As("<")),
        ("(?i)&gt;", As(">")),
        ("(?i)&quot;|&apos;|&nbsp;", Nothing),
        (r"&#\d+;", Token),
        // Emoticons.
        (r"[<>]?[:;=][o']?-?[()\[\]DPOdpo3|]", Emoticon),
        (r"\^_\^|-_-", Token),
        // Brackets.
        (r"\(", As("-lrb-")),
        (r"\)", As("-rrb-")),
        (r"\[", As("-lsb-")),
        (r"\]", As("-rsb-")),
        (r"\{", As("-lcb-")),
        (r"\}", As("-rcb-")),
        // Marks of more than one character.
        ("[!?]{2,}", Token),
        (r"\*+|_+|#+|@+", Token),
        ("-{2,4}|''|``", Nothing),
        ("<<|>>", Token),
        // Symbols. What else there is, punctuation above all, does not count.
        (r"[%&+=/\\^|~<>]", Token),
        ("[¡§¶·¿†‡•‣‰′″、。・¥฿]", Token),
        (r"[\p{So}\p{Sm}\p{Sk}\p{No}&&[\u{80}-\u{ffff}]]", Token),
    ];
    let rule = |&(pattern, kind): &(&str, Kind)| Rule {
        pattern: Regex::new(&format!("^(?:{pattern})")).expect("the pattern is valid"),
        kind,
    };
    rules.iter().map(rule).collect()
});

/// Whether words are apart at a character.
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

/// Takes the first token off a text that does not begin with a blank, and returns the rest.
pub(super) fn token<'a>(text: &'a str, words: &mut Vec<String>) -> &'a str {
    // Most words are letters between blanks, which only the first rule fits.
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    if end > 0 && text[end..].chars().next().is_none_or(is_blank) {
        return word(text, end, words);
    }
    let mut longest = (0, Kind::Nothing);
    for rule in RULES.iter() {
        let Some(found) = rule.pattern.find(text) else { continue };
        if found.end() > longest.0 && fits(rule.kind, found.as_str(), &text[found.end()..]) {
            longest = (found.end(), rule.kind);
        }
    }
    let (end, kind) = match longest {
        (0, kind) => (text.chars().next().map_or(0, char::len_utf8), kind),
        longest => longest,
    };
    let (token, rest) = text.split_at(end);
    match kind {
        Kind::Word => return word(text, end, words),
        Kind::Ending if lexicon::split(token).is_some() => return word(text, end, words),
        Kind::Token | Kind::Ending => words.push(token.to_owned()),
        Kind::Clitic => words.push(format!("'{}", after_apostrophe(token).unwrap_or(token))),
        Kind::Grouped | Kind::Emoticon => {
            words.push(token.replace('(', "-lrb-").replace(')', "-rrb-").replace(' ', "\u{a0}"));
        }
        Kind::As(text) => words.push(text.to_owned()),
        Kind::Nothing => {}
    }
    rest
}

/// Whether a match is one in front of `rest`, where it depends on that.
fn fits(kind: Kind, token: &str, rest: &str) -> bool {
    match kind {
        Kind::Ending | Kind::Clitic | Kind::Emoticon => !continues(rest),
        // "A's" has a clitic, other than "O'Neill".
        Kind::Word => {
            let inner = token.find(['\'', '’', '&']).and_then(|at| after_apostrophe(&token[at..]));
            inner.is_none_or(|inner| !CLITICS.contains(&inner.to_ascii_lowercase().as_str()))
        }
        _ => true,
    }
}

const CLITICS: [&str; 7] = ["s", "m", "d", "ll", "re", "ve", "t"];

/// Whether a word would go on.
fn continues(rest: &str) -> bool {
    rest.starts_with(char::is_alphanumeric)
}

fn after_apostrophe(text: &str) -> Option<&str> {
    ["'", "’", "&apos;"].iter().find_map(|apostrophe| text.strip_prefix(apostrophe))
}

/// Takes the word that ends at `end` off a text, with what is attached to it.
fn word<'a>(text: &'a str, end: usize, words: &mut Vec<String>) -> &'a str {
    let (word, rest) = text.split_at(end);
    let mut push = |word: &str| {
        let word = word.replace('\u{ad}', "");
        if !word.is_empty() {
            words.push(word);
        }
    };
    // "don't" is "do" and "n't".
    let stem = word.strip_suffix(['n', 'N']).filter(|stem| stem.ends_with(char::is_alphabetic));
    let behind = after_apostrophe(rest).and_then(|rest| rest.strip_prefix(['t', 'T']));
    if let (Some(stem), Some(behind)) = (stem, behind.filter(|behind| !continues(behind))) {
        push(stem);
        push("n't");
        return behind;
    }
    if let Some(behind) = rest.strip_prefix('.')
        && lexicon::keeps_stop(word, behind)
    {
        push(&format!("{word}."));
        return behind;
    }
    // "gonna's" stays whole.
    let at = lexicon::split(word).filter(|_| after_apostrophe(rest).is_none()).unwrap_or(0);
    push(&word[..at]);
    push(&word[at..]);
    rest
}

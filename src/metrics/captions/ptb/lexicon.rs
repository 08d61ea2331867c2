//! Words that are not cut where others are. All are in lower case.

/// Words of two words, with the length of the first.
const PAIRS: [(&str, usize); 8] = [
    ("cannot", 3),
    ("gimme", 3),
    ("gonna", 3),
    ("gotta", 3),
    ("lemme", 3),
    ("wanna", 3),
    ("'tis", 2),
    ("'twas", 2),
];

/// Where to cut a word of two words.
pub(super) fn split(word: &str) -> Option<usize> {
    let lower = word.to_ascii_lowercase();
    PAIRS.iter().find(|(pair, _)| *pair == lower).map(|(_, at)| *at)
}

/// Abbreviations that keep their full stop.
const ABBREVIATIONS: [&str; 133] = [
    "adj", "adm", "adv", "al", "ala", "alex", "apr", "ariz", "assn", "assoc", "asst", "atty", "attys", "aug",
    "ave", "bldg", "blvd", "brig", "bros", "calif", "capt", "cf", "cie", "cmdr", "co", "col", "colo",
    "comdr", "conn", "corp", "cos", "cpl", "ct", "dak", "dec", "dept", "det", "dr", "drs", "elec", "ens",
    "esq", "est", "etc", "ext", "feb", "fla", "fri", "ft", "ga", "gen", "gov", "govs", "hon", "inc", "ind",
    "insp", "intl", "jan", "jos", "jr", "jul", "jun", "kan", "kans", "ky", "lieut", "lt", "ltd", "maj",
    "mar", "md", "messrs", "mfg", "mich", "minn", "mlle", "mme", "mo", "mon", "mont", "mr", "mrs", "ms",
    "mt", "mtg", "natl", "neb", "nev", "nov", "oct", "okla", "penn", "pfc", "ph", "ph.d", "plc", "pres",
    "prof", "pty", "pvt", "rd", "rep", "reps", "rev", "sen", "sens", "sep", "sept", "seq", "sgt", "spc",
    "sq", "sr", "st", "supt", "supts", "tel", "tenn", "thu", "thurs", "treas", "tue", "tues", "univ", "va",
    "vs", "vt", "wed", "wis", "wisc", "wm", "wyo",
];
/// Those that keep it only if they begin with a capital letter: in lower case they are words.
const CAPITALIZED_ABBREVIATIONS: [&str; 10] =
    ["ark", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash"];
/// Those that keep it only before a number.
const NUMBER_ABBREVIATIONS: [&str; 9] = ["art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop"];

/// Words that begin a sentence: the full stop of a single letter before them ends another.
const STARTERS: [&str; 37] = [
    "A", "After", "An", "As", "At", "But", "He", "Her", "Here", "However", "If", "In", "It", "Many", "More",
    "Now", "One", "Other", "Our", "She", "Since", "So", "Some", "Such", "That", "The", "Their", "Then",
    "There", "These", "They", "This", "We", "What", "When", "While", "You",
];

/// Whether the full stop behind a word, with `rest` behind that, belongs to it.
pub(super) fn keeps_stop(word: &str, rest: &str) -> bool {
    if rest.starts_with([',', ';', ':']) {
        return true;
    }
    let next = rest.trim_start_matches(super::scan::is_blank);
    let lower = word.to_ascii_lowercase();
    let lower = lower.as_str();
    if word.len() == 1 && word.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return next.len() == rest.len()
            || !STARTERS.contains(&next.split(super::scan::is_blank).next().unwrap_or(next));
    }
    ABBREVIATIONS.contains(&lower)
        || (CAPITALIZED_ABBREVIATIONS.contains(&lower) && word.starts_with(|c: char| c.is_ascii_uppercase()))
        || (NUMBER_ABBREVIATIONS.contains(&lower) && next.starts_with(|c: char| c.is_ascii_digit()))
}

//! Words of captions, as COCO's evaluation has them: those of the Stanford tokenizer for the Penn Treebank (CoreNLP
//! 3.4.1 with `-lowerCase`), less the punctuation that pycocoevalcap takes out.
//!
//! This follows what that program does to texts and not its grammar, which is large. Equal are words with hyphens,
//! slashes and apostrophes, contractions ("do n't", "can not", "gon na"), numbers, fractions, dates and prices, acronyms,
//! common abbreviations with their full stop, quotes, brackets ("-lrb-"), dashes, web and mail addresses, common
//! emoticons, tags, and texts in other scripts: of English prose, all but one word in ten thousand.
//!
//! Known to differ are rare abbreviations (their full stop vanishes), emoticons of other shapes, telephone numbers in
//! several parts, version numbers such as `2.0.x`, symbols of little use in captions (some are dropped there and kept
//! here, or the other way round), and letters of scripts that Unicode got after 2012. Here a caption is cut by itself;
//! there it is one line of a text, so that the next caption may decide whether a single letter at the end of one keeps
//! its full stop, and a line break inside of a caption that is not `\n` shifts all captions behind it.

mod lexicon;
mod scan;

/// A caption in lower case, as words with one blank between them.
pub fn tokenize(caption: &str) -> String {
    let mut words = Vec::new();
    let mut rest = caption.trim_start_matches(scan::is_blank);
    while !rest.is_empty() {
        rest = scan::token(rest, &mut words).trim_start_matches(scan::is_blank);
    }
    words.join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::tokenize;

    /// What the Stanford tokenizer makes of these.
    #[test]
    fn captions_are_cut_as_by_the_reference() {
        for (caption, expected) in [
            ("a man's hat and the boys' hats'", "a man 's hat and the boys hats"),
            (
                "rock 'n' roll rock'n'roll y'all ma'am O'Neill",
                "rock 'n' roll rock 'n' roll y' all ma'am o'neill",
            ),
            ("'tis 'twas the '90s 90's 'em 'cause", "'t is 't was the '90s 90 's 'em 'cause"),
            ("she'd've shouldn't've CAN'T", "she 'd 've should n't 've ca n't"),
            (
                "gonna wanna gotta gimme lemme cannot dunno",
                "gon na wan na got ta gim me lem me can not dunno",
            ),
            ("Mr. X on 5th ave. near St. Mark, ft. tall", "mr. x on 5th ave. near st. mark ft. tall"),
            ("room no. 5 and no. way No.5 fig. 3", "room no. 5 and no way no. 5 fig. 3"),
            ("the U.S. flag, Ph.D. at 3 p.m. e.g. x.x.", "the u.s. flag ph.d. at 3 p.m. e.g. x.x."),
            ("the end.The start. a cat.a dog", "the end.the start a cat.a dog"),
            ("x3.5 3.5x 1-2 x-5.5 5.5-year 12.5-inch", "x3 .5 3.5 x 1-2 x-5 .5 5.5-year 12.5-inch"),
            ("1:30-2:30 10%-20% $5-$10", "1:30 -2:30 10 % -20 % $ 5 $ 10"),
            ("$5.00 US$5 £5 €5 50¢ 50%", "$ 5.00 us$ 5 # 5 $ 5 50 cents 50 %"),
            ("1 1/2 cups ½ 12/25/2010", "1\u{a0}1/2 cups 1/2 12/25/2010"),
            ("it's-a-me under_score under__score", "it 's a-me under_score under __ score"),
            ("AT&T r&b A&W &amp; c++ c#", "at&t r & b a&w & c++ c#"),
            ("wow!! wow!a ?! a?b !", "wow !! wow!a ?! a?b"),
            (":) :-( x:)y :D :Dog", ":-rrb- :--lrb- x -rrb- y :d dog"),
            ("<b>x</b> < a> a<b", "<b> x </b> < a > a < b"),
            (
                "@me #hash's # 5 me@x.org http://x.org/a?b=c. www.x.org",
                "@me #hash 's # 5 me@x.org http://x.org/a?b=c www.x.org",
            ),
            (
                "it\u{2019}s \u{201c}smart\u{201d} \u{2013} quotes\u{2026} o\u{2019}clock",
                "it 's smart quotes o\u{2019}clock",
            ),
            (
                "(555) 123-4567 (a) [b] {c}",
                "-lrb-555-rrb-\u{a0}123-4567 -lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb-",
            ),
            ("jack'o'lantern l'eau int'l it'sDog", "jack o'lantern l'eau int l it sdog"),
            ("5'10\" 6' 7\"", "5 10 6 7"),
            ("👍 ok 日本語 soft\u{ad}hyphen 5°C ♥", "ok 日本語 softhyphen 5 ° c ♥"),
            ("-- --- - ... .. _ ** ~~", "_ ** ~ ~"),
            ("", ""),
            (" \t", ""),
        ] {
            assert_eq!(tokenize(caption), expected, "{caption}");
        }
    }
}

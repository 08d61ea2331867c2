use super::super::{Mean, Metrics, python};
use super::text::number_of_word;
use super::{Error, Judged};

/// People who answered each question.
pub(super) const NUM_ANSWERS: usize = 10;
/// With so many others, an answer is right.
const NEEDED: f64 = 3.0;
/// The types of answers, and what their metrics are called.
const ANSWER_TYPES: [&str; 3] = ["yes/no", "number", "other"];
const TYPE_NAMES: [&str; ANSWER_TYPES.len()] = ["yesno", "number", "other"];

/// The official evaluation of VQAv2 (`vqav2.py`, <https://visualqa.org/evaluation.html>): an answer is compared with
/// all subsets of nine of ten people's. Both are cleaned up first, unless all people agree.
#[derive(Debug, Clone, Default)]
pub struct VqaV2 {
    by_type: [Mean; ANSWER_TYPES.len()],
    num: usize,
}

impl VqaV2 {
    /// Without `references`, the answer is counted but not judged.
    ///
    /// # Errors
    /// When there are some, but fewer than ten, or the type of answer is unknown.
    pub fn add(&mut self, answer: &str, references: &[String], answer_type: &str) -> Result<Judged, Error> {
        if references.is_empty() {
            self.num += 1;
            return Ok(Judged { answer: answer.to_owned(), references: Vec::new(), score: None });
        }
        if references.len() < NUM_ANSWERS {
            return Err(Error::TooFewAnswers { got: references.len() });
        }
        let place = ANSWER_TYPES.iter().position(|&known| known == answer_type);
        let place = place.ok_or_else(|| Error::UnknownType {
            what: "answer_type",
            got: answer_type.to_owned(),
            known: &ANSWER_TYPES,
        })?;
        let mut answer = strip_space(answer);
        let mut references: Vec<String> = references.iter().map(|text| strip_space(text)).collect();
        if references.iter().any(|reference| *reference != references[0]) {
            answer = postprocess(&answer);
            references = references.iter().map(|text| postprocess(text)).collect();
        }
        let matches: Vec<bool> = references.iter().map(|reference| *reference == answer).collect();
        let total = matches.iter().filter(|&&equal| equal).count();
        let without = |&equal: &bool| ((total - usize::from(equal)) as f64 / NEEDED).min(1.0);
        let score = matches[..NUM_ANSWERS].iter().map(without).sum::<f64>() / NUM_ANSWERS as f64;
        self.num += 1;
        self.by_type[place].add(score);
        Ok(Judged { answer, references, score: Some(score) })
    }

    /// `acc` of the judged answers, `acc/yesno`, `num/yesno` and so on of every type of answer that occurs, and `num` of
    /// all answers.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new();
        let sum: f64 = self.by_type.iter().map(|mean| mean.sum).sum();
        let count: usize = self.by_type.iter().map(|mean| mean.count).sum();
        metrics.extend(Mean { sum, count }.get().map(|accuracy| ("acc".to_owned(), accuracy)));
        for (name, mean) in TYPE_NAMES.iter().zip(self.by_type) {
            if let Some(accuracy) = mean.get() {
                metrics.push((format!("acc/{name}"), accuracy));
                metrics.push((format!("num/{name}"), mean.count as f64));
            }
        }
        metrics.push(("num".into(), self.num as f64));
        metrics
    }
}

/// A text in one line, without blanks around.
pub fn strip_space(text: &str) -> String {
    text.replace(['\n', '\t'], " ").trim_matches(python::is_space).to_owned()
}

/// A text in lower case without punctuation and articles, with number words as digits and apostrophes put back.
///
/// Two oddities are the official program's and its port's: where a comma is between digits, punctuation vanishes instead
/// of becoming a blank; and every full stop goes that no digit follows, also behind a number.
pub fn postprocess(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let has_digit_comma = characters
        .windows(3)
        .any(|window| window[1] == ',' && python::is_digit(window[0]) && python::is_digit(window[2]));
    let mut out = text.to_owned();
    for mark in PUNCTUATION {
        let is_at_blank = || text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
        out = out.replace(mark, if has_digit_comma || is_at_blank() { "" } else { " " });
    }
    let mut without_stops = String::with_capacity(out.len());
    let mut characters = out.chars().peekable();
    while let Some(c) = characters.next() {
        if c != '.' || characters.peek().is_some_and(|&next| python::is_digit(next)) {
            without_stops.push(c);
        }
    }
    let lower = without_stops.to_lowercase();
    let words = python::words(&lower).filter(|word| !ARTICLES.contains(word));
    words.map(replacement).collect::<Vec<_>>().join(" ")
}

fn replacement(word: &str) -> String {
    if let Some(number) = number_of_word(word).filter(|&number| number <= LARGEST_WORD) {
        return number.to_string();
    }
    match CONTRACTIONS.binary_search_by_key(&word, |(key, _)| key) {
        Ok(place) => CONTRACTIONS[place].1.to_owned(),
        Err(_) => word.to_owned(),
    }
}

/// In the order in which they are replaced.
const PUNCTUATION: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!',
];
const ARTICLES: [&str; 3] = ["a", "an", "the"];
/// Number words become digits up to this.
const LARGEST_WORD: usize = 10;
/// Words that lost their apostrophe, in their order, as the official evaluation lists them: without those that nothing
/// in lower case can equal, and those that stay as they are.
#[rustfmt::skip]
const CONTRACTIONS: &[(&str, &str)] = &[
    ("'ow'sat", "'ow's'at"), ("'ows'at", "'ow's'at"), ("aint", "ain't"), ("arent", "aren't"),
    ("cant", "can't"), ("couldn'tve", "couldn't've"), ("couldnt", "couldn't"),
    ("couldnt've", "couldn't've"), ("couldve", "could've"), ("didnt", "didn't"), ("doesnt", "doesn't"),
    ("dont", "don't"), ("hadn'tve", "hadn't've"), ("hadnt", "hadn't"), ("hadnt've", "hadn't've"),
    ("hasnt", "hasn't"), ("havent", "haven't"), ("he'dve", "he'd've"), ("hed", "he'd"),
    ("hed've", "he'd've"), ("hes", "he's"), ("howd", "how'd"), ("howll", "how'll"), ("hows", "how's"),
    ("isnt", "isn't"), ("it'dve", "it'd've"), ("itd", "it'd"), ("itd've", "it'd've"), ("itll", "it'll"),
    ("maam", "ma'am"), ("mightn'tve", "mightn't've"), ("mightnt", "mightn't"),
    ("mightnt've", "mightn't've"), ("mightve", "might've"), ("mustnt", "mustn't"), ("mustve", "must've"),
    ("neednt", "needn't"), ("notve", "not've"), ("oclock", "o'clock"), ("oughtnt", "oughtn't"),
    ("ow's'at", "'ow's'at"), ("shant", "shan't"), ("she'dve", "she'd've"), ("shed've", "she'd've"),
    ("shouldn'tve", "shouldn't've"), ("shouldnt", "shouldn't"), ("shouldnt've", "shouldn't've"),
    ("shouldve", "should've"), ("somebody'd", "somebodyd"), ("somebody'dve", "somebody'd've"),
    ("somebodyd've", "somebody'd've"), ("somebodyll", "somebody'll"), ("somebodys", "somebody's"),
    ("someone'dve", "someone'd've"), ("someoned", "someone'd"), ("someoned've", "someone'd've"),
    ("someonell", "someone'll"), ("someones", "someone's"), ("something'dve", "something'd've"),
    ("somethingd", "something'd"), ("somethingd've", "something'd've"), ("somethingll", "something'll"),
    ("thats", "that's"), ("there'dve", "there'd've"), ("thered", "there'd"), ("thered've", "there'd've"),
    ("therere", "there're"), ("theres", "there's"), ("they'dve", "they'd've"), ("theyd", "they'd"),
    ("theyd've", "they'd've"), ("theyll", "they'll"), ("theyre", "they're"), ("theyve", "they've"),
    ("twas", "'twas"), ("wasnt", "wasn't"), ("we'dve", "we'd've"), ("wed've", "we'd've"),
    ("werent", "weren't"), ("weve", "we've"), ("whatll", "what'll"), ("whatre", "what're"),
    ("whats", "what's"), ("whatve", "what've"), ("whens", "when's"), ("whered", "where'd"),
    ("wheres", "where's"), ("whereve", "where've"), ("who'dve", "who'd've"), ("whod", "who'd"),
    ("whod've", "who'd've"), ("wholl", "who'll"), ("whos", "who's"), ("whove", "who've"),
    ("whyll", "why'll"), ("whyre", "why're"), ("whys", "why's"), ("wont", "won't"),
    ("wouldn'tve", "wouldn't've"), ("wouldnt", "wouldn't"), ("wouldnt've", "wouldn't've"),
    ("wouldve", "would've"), ("y'all'dve", "y'all'd've"), ("y'alld've", "y'all'd've"),
    ("y'allll", "y'all'll"), ("yall", "y'all"), ("yall'd've", "y'all'd've"), ("yall'll", "y'all'll"),
    ("you'dve", "you'd've"), ("youd", "you'd"), ("youd've", "you'd've"), ("youll", "you'll"),
    ("youre", "you're"), ("youve", "you've"),
];

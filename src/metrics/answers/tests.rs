//! Against recordings of big_vision's functions (tests/data/metrics/README.md). Whole evaluators are replayed by
//! `verify`.

use serde_json::Value;

use super::*;

fn cases(file: &Value, key: &str, count: usize) -> Vec<Value> {
    let cases = file[key].as_array().unwrap();
    assert_eq!(cases.len(), count);
    cases.clone()
}

fn functions() -> Value {
    serde_json::from_str(include_str!("../../../tests/data/metrics/answer_functions.json")).unwrap()
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap()
}

#[test]
fn vqav2_texts_are_cleaned_up_as_recorded() {
    let file: Value =
        serde_json::from_str(include_str!("../../../tests/data/metrics/vqav2_postprocess.json")).unwrap();
    for case in cases(&file, "cases", 600) {
        let written = text(&case, "text");
        assert_eq!(strip_space(written), text(&case, "stripspace"), "{written:?}");
        assert_eq!(postprocess(written), text(&case, "postprocess"), "{written:?}");
        assert_eq!(postprocess(&strip_space(written)), text(&case, "stripspace_postprocess"), "{written:?}");
    }
}

#[test]
fn numbers_are_read_and_compared_as_recorded() {
    let file = functions();
    for case in cases(&file, "chartqa_to_float", 49) {
        let expected = match &case["value"] {
            Value::String(word) => Some(word.parse().unwrap()),
            number => number.as_f64(),
        };
        let got = to_float(text(&case, "text"));
        assert_eq!(got.map(f64::to_bits), expected.map(f64::to_bits), "{case}");
    }
    for case in cases(&file, "chartqa_relaxed_match", 454) {
        let got = relaxed_match(text(&case, "target"), text(&case, "prediction"));
        assert_eq!(got, case["match"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn similarity_is_as_recorded() {
    for case in cases(&functions(), "vqa_anls_metric", 256) {
        for (theta, key) in [(0.5, "anls"), (0.9, "anls_theta_0.9")] {
            let got = anls(text(&case, "target"), text(&case, "prediction"), theta);
            assert!((got - case[key].as_f64().unwrap()).abs() < 1e-12, "{case}: {got}");
        }
    }
    assert_eq!(edit_distance("kitten", "sitting"), 3);
    assert_eq!(edit_distance("", "é中"), 2);
    assert_eq!(edit_distance("é中", ""), 2);
}

#[test]
fn letters_and_number_words_are_as_recorded() {
    let file = functions();
    for case in cases(&file, "science_qa_postproc", 14) {
        let got = chosen_letter(text(&case, "text")).map_or("failed".to_owned(), String::from);
        assert_eq!(got, text(&case, "postproc"), "{case}");
    }
    for case in cases(&file, "tallyqa_number_word", 30) {
        assert_eq!(number_word_to_numeral(text(&case, "text")), text(&case, "numeral"), "{case}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let ten: Vec<String> = (0..10).map(|_| "x".to_owned()).collect();
    let error = |error: Error| error.to_string();
    let mut vqav2 = VqaV2::default();
    assert_eq!(
        error(vqav2.add("x", &ten[..5], "other").unwrap_err()),
        "VQAv2 compares with 10 answers of people, got only 5"
    );
    assert_eq!(
        error(vqav2.add("x", &ten, "weird").unwrap_err()),
        "unknown answer_type \"weird\", known are: yes/no, number, other"
    );
    // What failed is not counted.
    assert_eq!(vqav2.metrics(), [("num".to_owned(), 0.0)]);
    let mut rsvqa = RsVqa::new(false);
    let known = rsvqa.add("x", Truth::Several(&ten), "colour").unwrap_err();
    assert!(error(known).ends_with("known are: comp, count, presence, rural_urban, area"));
    rsvqa.add("x", Truth::One("x"), "comp").unwrap();
    assert_eq!(rsvqa.metrics().unwrap_err(), Error::NoTypes);
    assert_eq!(
        error(TallyQa::default().add("16", "16", None).unwrap_err()),
        "the right count is \"16\", expected a whole number from 0 to 15 or its English word"
    );
}

/// A tenth of the people always disagree, so that three who agree do not suffice for all subsets of nine.
#[test]
fn people_are_left_out_one_by_one() {
    let mut references = vec!["a cat".to_owned(); 3];
    references.extend(vec!["dog".to_owned(); 7]);
    let judged = VqaV2::default().add("the Cat.", &references, "other").unwrap();
    assert_eq!((judged.answer.as_str(), judged.references[0].as_str()), ("cat", "cat"));
    assert!((judged.score.unwrap() - 0.9).abs() < 1e-12);
}

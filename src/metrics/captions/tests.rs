//! Against recordings of pycocoevalcap (tests/data/metrics/README.md).

use serde_json::Value;

use super::*;

fn recorded(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn texts(json: &Value) -> Vec<String> {
    json.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn tokens_equal_the_recordings() {
    let file = recorded(include_str!("../../../tests/data/metrics/captions_raw.json"));
    let cases = file["ptb_tokenizer"].as_array().unwrap();
    assert_eq!(cases.len(), 189);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenize(text), case["tokens"].as_str().unwrap(), "{text:?}");
    }
}

#[test]
fn scores_equal_the_recordings() {
    let file = recorded(include_str!("../../../tests/data/metrics/captions.json"));
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let mut captions = Captions::default();
        for (image, candidate) in case["candidates"].as_object().unwrap() {
            let candidate = candidate[0].as_str().unwrap().to_owned();
            captions.add_tokenized(image, candidate, texts(&case["references"][image])).unwrap();
        }
        let compare = |scores: &Scores, corpus: &Value, per_image: &Value| {
            let per_image = per_image.as_array().unwrap();
            assert_eq!(scores.per_image.len(), per_image.len());
            let all = scores.per_image.iter().zip(per_image).chain([(&scores.corpus, corpus)]);
            for (got, expected) in all {
                assert!(
                    (got - expected.as_f64().unwrap()).abs() < 1e-9,
                    "{}: {got}, {expected}",
                    case["name"]
                );
            }
        };
        compare(&captions.cider(), &case["cider"], &case["cider_per_image"]);
        compare(&captions.rouge_l(), &case["rouge_l"], &case["rouge_l_per_image"]);
        for (order, scores) in captions.bleu().iter().enumerate() {
            compare(scores, &case["bleu"][order], &case["bleu_per_image"][order]);
        }
    }
}

/// From texts as they are written to the evaluator's numbers.
#[test]
fn evaluations_equal_the_recordings() {
    let file = recorded(include_str!("../../../tests/data/metrics/captions_raw.json"));
    let recorded = &file["evaluate"];
    let rows = |key: &str| {
        let rows = recorded[key].as_array().unwrap().iter();
        rows.map(|row| (row["image_id"].as_str().unwrap(), row["caption"].as_str().unwrap()))
    };
    let captions = Captions::new(rows("predictions"), rows("annotations")).unwrap();
    assert_eq!(captions.len(), 60);
    let scores = &recorded["scores"];
    for (name, expected) in [("cider", &scores["cider"]), ("rouge", &scores["rouge"])] {
        let got = captions.metric(name).unwrap();
        assert_eq!(got[0].0, name);
        assert!((got[0].1 - expected.as_f64().unwrap()).abs() < 1e-9, "{name}: {got:?}, {expected}");
    }
    let got = captions.metric("bleu-4").unwrap();
    for ((name, got), expected) in got.iter().zip(scores["bleu-4"].as_array().unwrap()) {
        assert!((got - expected.as_f64().unwrap()).abs() < 1e-9, "{name}: {got}, {expected}");
    }
}

#[test]
fn rows_of_one_image_are_put_together() {
    let captions = Captions::new(
        [("1", "a dog"), ("2", "x"), ("1", "a cat")],
        [("1", "the cat"), ("2", "x"), ("1", "a cat")],
    );
    let captions = captions.unwrap();
    assert_eq!(captions.images[0].candidate, "a cat");
    assert_eq!(captions.images[0].references, ["the cat", "a cat"]);
    let error = Captions::new([("7", "a")], []).unwrap_err().to_string();
    assert_eq!(error, "image 7 has a predicted caption but no reference");
    let error = Captions::new([], [("7", "a")]).unwrap_err().to_string();
    assert_eq!(error, "image 7 has reference captions but no predicted one");
    let error = captions.metric("spice").unwrap_err().to_string();
    assert!(
        error.starts_with("unknown caption metric \"spice\", known are: cider, rouge, bleu-4; METEOR"),
        "{error}"
    );
}

#[test]
fn no_captions_score_nothing() {
    let none = Captions::default();
    assert!(none.is_empty());
    assert_eq!((none.cider().corpus, none.rouge_l().corpus, none.bleu()[3].corpus), (0.0, 0.0, 0.0));
}

//! The config as its users meet it: whole files, changes from the command line, messages.

use std::collections::BTreeSet;
use std::path::Path;

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::schema::Field;
use super::*;
use crate::array::DType;
use crate::config_section;

const FORKME: &str = include_str!("../../tests/data/config/forkme.yaml");

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn load(yaml: &str, args: &[(&str, &str)], sets: &[(&str, &str)]) -> Result<Loaded, Error> {
    Config::parse(yaml, Path::new("run.yaml"), &pairs(args), &pairs(sets))
}

#[track_caller]
fn config(yaml: &str) -> Config {
    load(yaml, &[], &[]).unwrap_or_else(|error| panic!("{error}")).config
}

/// The messages of a config's mistakes, with their places.
#[track_caller]
fn mistakes(yaml: &str, sets: &[(&str, &str)]) -> Vec<String> {
    let error = load(yaml, &[], sets).expect_err("mistakes");
    error.diagnostics().iter().map(|d| format!("{}:{}: {}", d.line, d.column, d.message)).collect()
}

#[test]
fn a_transfer_config_means_what_it_says() {
    let config = load(FORKME, &[("res", "448")], &[]).unwrap().config;
    let input = config.input.as_ref().unwrap();
    let InputData::Source(Source::Jsonl(jsonl)) = &input.data else { panic!("jsonl") };
    assert_eq!(jsonl.stop, Some(100));
    assert_eq!(jsonl.fopen_keys.0, [("image".to_owned(), FilePath("photos".into()))]);
    assert_eq!(
        input.pp,
        "decode|resize(448, antialias=True)|value_range(-1, 1)|strfmt(\"caption {lang}\", outkey=\"prefix\")|tolen(129)"
    );
    assert_eq!((input.batch_size, input.shuffle_buffer_size), (32, Some(1000)));
    assert_eq!(config.total, Duration { epochs: Some(15.0), ..Duration::NONE });
    assert_eq!((config.lr, config.wd, config.grad_clip_norm), (1e-5, 3e-7, Some(1.0)));
    assert_eq!(config.optax.get("b2").unwrap().kind(), &Kind::Float(0.999));
    assert_eq!(config.model.image_size, Some(448));
    assert_eq!(config.model.llm.final_logits_softcap, Some(0.0));
    assert_eq!(config.model_init, Some(ModelInit::Whole("pt_3b_448".into())));
    assert_eq!(config.compute_dtype, DType::BF16);
    assert_eq!(config.schedule.get("img/embedding/kernel"), Some(&None));
    let llm = config.schedule.get("llm/layers/attn/q_einsum/w").unwrap().as_ref().unwrap();
    assert_eq!((llm.decay_type, llm.warmup.percent), (DecayType::Cosine, Some(0.05)));
    assert_eq!(config.schedule.get("head"), None);
    assert_eq!(config.wd_mults.get("img/head/kernel"), Some(&1.0));
    assert_eq!(config.wd_mults.get("img/head/bias"), None);
    assert_eq!(config.sharding_rules, [("act_batch".to_owned(), Axes(vec!["data".into()]))]);

    let pplx = config.evals.get("val/pplx").unwrap();
    assert_eq!((pplx.kind.as_deref(), pplx.pred.as_str()), (Some("perplexity"), "logits"));
    let horizon = Horizon { total_steps: Some(1000), ..Horizon::default() };
    assert_eq!(pplx.log.whole_steps("log", horizon), Ok(Some(100)));
    assert_eq!(config.eval_batch_size(pplx), 32);
    let store = config.evals.get("val/store").unwrap();
    // Anchors carry data over, merges change one key of it.
    let (Source::Jsonl(a), Source::Jsonl(b)) = (&pplx.data, &store.data) else { panic!("jsonl") };
    assert_eq!((a.fname.as_path(), &a.fopen_keys), (b.fname.as_path(), &b.fopen_keys));
    assert_eq!((a.stop, b.stop), (None, Some(8)));
}

#[test]
fn every_key_has_a_default() {
    let config = config("");
    assert_eq!(config, Config::default());
    assert_eq!(config.log_training, Duration::of_steps(50.0));
    assert_eq!(config.schedule.get("anything"), Some(&Some(ScheduleSpec::default())));
    assert_eq!(config.model.llm.vocab_size, 256_000 + 1024 + 128);
}

#[test]
fn what_is_written_loads_again() {
    let mixture = "input:\n  data: {a: 3, b: 0.5}\n  a: {data: {name: bv:jsonl, fname: x}, pp: decode}\n  \
                   b: {data: {name: bv:imagefolder, path: y}, shuffle_buffer_size: 10, shuffle_reach: buffer, cache_raw_mb: 7}\n\
                   model: {img: {patch_size: [14, 16]}}\nmodel_init: {img: a.npz, llm: null}\n\
                   sharding_rules: [[act_batch, null]]\nmodel_load: {img_load_kw: {dont_load: ['head/.*']}}\n\
                   device: {kind: cpu}\nschedule: null\nlr_mults: 0.5\ntotal_examples: 1000\nckpt_percent: 0.1\n";
    for (yaml, args, sets) in [
        ("", vec![], vec![]),
        (FORKME, vec![], vec![]),
        (
            FORKME,
            vec![("res", "448")],
            vec![("lr", "3e-6"), ("evals.val/store", "null"), ("total_steps", "7")],
        ),
        (
            "args: {caption: x}\ninput: {data: {name: bv:jsonl, fname: x}, pp: 'a({{caption}}) {caption} {other}'}",
            vec![],
            vec![],
        ),
        (mixture, vec![], vec![]),
    ] {
        let loaded = load(yaml, &args, &sets).unwrap_or_else(|error| panic!("{error}"));
        let written = loaded.to_yaml();
        let again = load(&written, &[], &[]).unwrap_or_else(|error| panic!("{error}\n{written}"));
        assert_eq!(again.config, loaded.config, "{written}");
        assert_eq!(again.config.encode(), loaded.config.encode());
    }
    assert!(
        load(FORKME, &[], &[])
            .unwrap()
            .to_yaml()
            .starts_with("# Resolved from run.yaml with res=224 text_len=128\n")
    );
}

#[test]
fn all_mistakes_are_shown_at_once_with_their_places() {
    let yaml = "lrr: 1e-5\nwd: abc\ninput:\n  data: {name: bv:json, fname: x}\n  bach_size: 3\n\
                wd_mults:\n- ['a(', 1]\nlabel_smoothing: 1.5\nmesh: [[data, 0]]\nbatch_size: 8\npp_modules: []\n\
                optax_name: 3\ndevice: cpu\n";
    let error = load(yaml, &[], &[]).unwrap_err();
    let expected = "\
11 problems in the config

run.yaml:1:1: unknown key \"lrr\", did you mean \"lr\" or \"lora\"
  |
1 | lrr: 1e-5
  | ^^^

run.yaml:2:5: wd is the string \"abc\", expected a number
  |
2 | wd: abc
  |     ^^^

run.yaml:4:16: input.data.name is the string \"bv:json\", did you mean \"bv:jsonl\"
  |
4 |   data: {name: bv:json, fname: x}
  |                ^^^^^^^

run.yaml:5:3: unknown key \"bach_size\" in input, did you mean \"batch_size\"
  |
5 |   bach_size: 3
  |   ^^^^^^^^^

run.yaml:7:4: wd_mults.0.0 is not a regular expression: unclosed group
  |
7 | - ['a(', 1]
  |    ^^^^

run.yaml:8:18: label_smoothing is the number 1.5, expected a number at least 0 and less than 1
  |
8 | label_smoothing: 1.5
  |                  ^^^

run.yaml:9:1: mesh axis \"data\" has size 0, expected at least 1, or -1
  |
9 | mesh: [[data, 0]]
  | ^^^^

run.yaml:10:1: unknown key \"batch_size\", it belongs at \"evals.NAME.batch_size\" or \"input.batch_size\"
   |
10 | batch_size: 8
   | ^^^^^^^^^^

run.yaml:11:1: unknown key \"pp_modules\", every pp op is always there, remove the key
   |
11 | pp_modules: []
   | ^^^^^^^^^^

run.yaml:12:13: optax_name is the integer 3, expected a string (put it in quotes)
   |
12 | optax_name: 3
   |             ^

run.yaml:13:9: device is the string \"cpu\", expected a mapping
   |
13 | device: cpu
   |         ^^^";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn wrong_types_say_what_stands_there() {
    let cases = [
        ("seed: -1", "1:7: seed is the integer -1, expected an integer of at least 0"),
        ("seed: \"3\"", "1:7: seed is the string \"3\", expected an integer of at least 0 without quotes"),
        ("lr: '1e-5'", "1:5: lr is the string \"1e-5\", expected a number without quotes"),
        ("lr: .nan", "1:5: lr is the number NaN, expected a finite number"),
        ("lr: [1]", "1:5: lr is a list of 1, expected a number"),
        ("report: {html: no}", "1:16: report.html is the string \"no\", expected true or false"),
        ("model: {llm: {dropout: null}}", "1:24: model.llm.dropout is null, expected a number"),
        (
            "compute_dtype: int8",
            "1:16: compute_dtype is the string \"int8\", expected a floating-point dtype (float32, bfloat16, float16 or \
             float64)",
        ),
        ("mesh: {data: -1}", "1:7: mesh is a mapping (data: ...), expected a list of [string, integer]"),
        ("mesh: [[data, -1, 2]]", "1:8: mesh.0 is a list of 3, expected [string, integer]"),
        ("grad_clip_norm: 0", "1:17: grad_clip_norm is the integer 0, expected a number greater than 0"),
        (
            "loss: {reduction: tokens}",
            "1:19: loss.reduction is the string \"tokens\", did you mean \"token\"",
        ),
        (
            "model: {img: {patch_size: 0}}",
            "1:27: model.img.patch_size is the integer 0, expected an integer greater than 0, or [height, width]",
        ),
        ("- 1", "1:1: the config is a list of 1, expected a mapping"),
        (
            "evals: {x: {type: y}}",
            "1:12: evals.x lacks the key \"data\" 1:12: evals.x lacks the key \"pp_fn\"",
        ),
        ("a: 1\na: 2", "2:1: duplicate mapping key: a"),
        (
            "input: {data: {a: 0}, a: {data: {name: bv:jsonl, fname: x}}}",
            "1:15: all weights of input.data are 0",
        ),
        (
            "model: {llm: {variant: null, width: 8, num_heads: 4, num_kv_heads: 3}}",
            "1:14: model.llm has no variant and lacks depth, mlp_dim, head_dim \
          1:14: model.llm has 4 heads over 3 kv heads, which does not divide",
        ),
    ];
    for (yaml, expected) in cases {
        assert_eq!(mistakes(yaml, &[]).join(" "), expected, "{yaml}");
    }
}

#[test]
fn durations_and_schedules_are_checked() {
    let cases = [
        (
            "total_steps: 1\ntotal_epochs: 2",
            "2:1: total_epochs and total_steps say the same thing, only one can be set",
        ),
        ("ckpt_steps: 1.5", "1:1: ckpt_steps is 1.5, expected a whole number of steps"),
        (
            "ckpt_percent: 5",
            "1:15: ckpt_percent is the integer 5, expected a number from 0 to 1 (a share of the training)",
        ),
        (
            "total_percent: 1",
            "1:1: total_percent is a share of itself, use total_steps, total_epochs or total_examples",
        ),
        (
            "schedule: {decay_type: cosin}",
            "1:24: schedule.decay_type is the string \"cosin\", did you mean \"cosine\"",
        ),
        (
            "schedule: {decay_type: exponential}",
            "1:24: schedule.decay_type is the string \"exponential\", known are \"cosine\", \"linear\", \"polynomial\", \
             \"rsqrt\" and \"stair\"",
        ),
        (
            "schedule: {warmup: 3}",
            "1:12: unknown key \"warmup\" in schedule, did you mean \"warmup_steps\", \"warmup_epochs\" or \"warmup_percent\"",
        ),
        (
            "schedule: {decay_type: cosine, power: 2}",
            "1:32: power means nothing to decay_type cosine, it takes only mult, scale_with_batchsize, warmup and cooldown",
        ),
        (
            "schedule: [['.*', {decay_type: rsqrt, end: 2}]]",
            "1:39: end means nothing to decay_type rsqrt, it takes timescale, shift",
        ),
        (
            "schedule: {steps: [3, 2], mults: [1]}",
            "1:12: stair has 2 steps and 1 mults, expected one mult for each step 1:12: the steps of stair are not in ascending order",
        ),
        ("lr_mults: [[a, 0]]", "1:1: lr_mults has 0 for \"a\", use a schedule of null to freeze parameters"),
        (
            "input: {data: {name: bv:jsonl, fname: x}, batch_size: 8}\ngrad_accum_steps: 3",
            "2:1: grad_accum_steps 3 does not divide input.batch_size 8",
        ),
    ];
    for (yaml, expected) in cases {
        assert_eq!(mistakes(yaml, &[]).join(" "), expected, "{yaml}");
    }
    // Negative means absent, as in the reference.
    assert!(config("total_steps: -1\ntotal_epochs: 2").total.epochs == Some(2.0));
}

#[test]
fn a_mixture_and_its_sections_agree() {
    let source = "{data: {name: bv:jsonl, fname: x}}";
    let yaml =
        format!("input:\n  data: {{a: 3, b: 1}}\n  a: {source}\n  c: {source}\n  cache_raw: true\n  d: 3\n");
    assert_eq!(
        mistakes(&yaml, &[]),
        [
            "2:16: input.data weighs \"b\", but there is no section input.b",
            "4:3: source \"c\" has no weight in input.data",
            "5:3: cache_raw is set per source in a mixture (input.NAME.cache_raw)",
            "6:3: unknown key \"d\" in input, known are \"data\", \"pp\", \"batch_size\", \"shuffle_buffer_size\", \
             \"shuffle_reach\", \"cache_raw\", \"cache_raw_mb\", \"skip_errors\", \"num_parallel_calls\", \"prefetch\" and \"keep_only\"",
        ]
    );
    let yaml = format!("input:\n  data: {{a: 3, b: 1}}\n  a: {source}\n  b: {source}\n");
    let input = config(&yaml).input.unwrap();
    assert_eq!(input.data, InputData::Mixture(Named(vec![("a".into(), 3.0), ("b".into(), 1.0)])));
    assert_eq!(input.sources.0.get("b").unwrap().data.name(), "bv:jsonl");
}

#[test]
fn record_files_are_named_in_many_ways() {
    let data = |yaml: &str| match config(&format!("input: {{data: {yaml}}}")).input.unwrap().data {
        InputData::Source(source) => source,
        InputData::Mixture(weights) => panic!("{weights:?}"),
    };
    let tfds = |yaml: &str| match data(yaml) {
        Source::Tfds(tfds) => (tfds.dataset, tfds.split),
        other => panic!("{other:?}"),
    };
    let expected = ("chartqa/human".to_owned(), "train[:98%]+val".to_owned());
    assert_eq!(tfds("{name: bv:tfds, dataset: chartqa/human, split: 'train[:98%]+val'}"), expected);
    // As big_vision's configs have it.
    assert_eq!(tfds("{name: chartqa/human, split: 'train[:98%]+val'}"), expected);
    assert_eq!(tfds("{name: 'ref_coco_bv/all:1.4.0', split: test}").0, "ref_coco_bv/all:1.4.0");
    assert_eq!(tfds("{name: from_data_dir, data_dir: x, split: test}").0, "");

    let patterns = |yaml: &str| match data(yaml) {
        Source::WebDataset(webdataset) => webdataset.path.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(patterns("{name: webdataset, path: 'a-{0..3}.tar'}"), [Path::new("a-{0..3}.tar")]);
    assert_eq!(
        patterns("{name: webdataset, path: [a.tar, /b/*.tar]}"),
        [Path::new("a.tar"), Path::new("/b/*.tar")]
    );

    let message = "2:9: input.data needs either \"path\" for files, or \"repo\" for a data set on the hub";
    assert_eq!(mistakes("input:\n  data: {name: hf:parquet}\n", &[]), [message]);
    assert_eq!(mistakes("input:\n  data: {name: hf:parquet, path: a, repo: b/c}\n", &[]), [message]);
    let message =
        mistakes("input: {data: {name: bv:tfds, split: train, skip_decode: [image]}}", &[]).remove(0);
    assert!(
        message.ends_with("images are always handed on encoded: decode them with the pp op \"decode\""),
        "{message}"
    );
}

#[test]
fn sets_change_any_key() {
    let sets = [
        ("lr", "1e-4"),
        ("total_steps", "10"),
        ("input.data.stop", "5"),
        ("evals.val/pplx.log_steps", "3"),
        ("evals.'val/store'", "null"),
        ("schedule.1.1.decay_type", "linear"),
        ("model.llm.dropout", "0.1"),
        ("report.html", "false"),
        ("optax.b1", "0.5"),
        ("input.pp", "decode|resize({res})"),
    ];
    let config = load(FORKME, &[], &sets).unwrap().config;
    assert_eq!(config.lr, 1e-4);
    assert_eq!(config.total, Duration::of_steps(10.0));
    let input = config.input.unwrap();
    let InputData::Source(Source::Jsonl(jsonl)) = &input.data else { panic!("jsonl") };
    assert_eq!(jsonl.stop, Some(5));
    assert_eq!(input.pp, "decode|resize(224)");
    assert_eq!(config.evals.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["val/pplx"]);
    assert_eq!(config.evals.get("val/pplx").unwrap().log, Duration::of_steps(3.0));
    assert_eq!(config.schedule.0[1].1.as_ref().unwrap().decay_type, DecayType::Linear);
    assert_eq!(config.optax.entries().len(), 2);
    assert!(!config.report.html);
}

#[test]
fn mistakes_on_the_command_line_are_quoted() {
    let sets = [
        ("evals.val.log_steps", "3"),
        ("lr.x", "1"),
        ("schedule.9", "1"),
        ("a..b", "1"),
        ("seed", "[1"),
        ("wd", "x"),
    ];
    let args = [("rez", "448"), ("res", "4x")];
    let error = load(FORKME, &args, &sets).unwrap_err();
    let messages: Vec<&str> = error.diagnostics().iter().map(|d| d.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "unknown argument \"rez\", did you mean \"res\"",
            "--arg res: \"4x\" is not an integer, like its default 224",
            "evals.val lacks the key \"data\", and exists only by --set: did you mean \"val/pplx\" or \"val/store\"",
            "evals.val lacks the key \"pp_fn\", and exists only by --set: did you mean \"val/pplx\" or \"val/store\"",
            "lr is the number 0.00001, it has no key \"x\"",
            "schedule is a list of 2, \"9\" is no index of it (from 0)",
            "--set a..b: a part of the key between dots is empty",
            "--set seed: unclosed bracket '['",
            "wd is the string \"x\", expected a number",
        ]
    );
    let last = error.diagnostics().last().unwrap().to_string();
    assert_eq!(
        last,
        "command line: wd is the string \"x\", expected a number\n  |\n1 | --set wd=x\n  |          ^"
    );
    let error = load("lr: 1", &[("res", "1")], &[]).unwrap_err();
    assert!(error.to_string().contains("unknown argument \"res\", the config declares none"), "{error}");
    assert_eq!(split_assignment("a.b= c=d").unwrap(), ("a.b".to_owned(), " c=d".to_owned()));
    assert_eq!(split_assignment("lr").unwrap_err().to_string(), "expected key=value, got \"lr\"");
}

#[test]
fn arguments_take_the_type_of_their_default() {
    let yaml = "args: {n: 1, f: 0.5, b: false, s: x, none: null, twice: '{n*2}'}\nseed: '{n}'\nlr: '{f}'\n\
                report: {html: '{b}', examples: '{twice}'}\noptax_name: '{s}'\nresume: '{none}'\n";
    let args = [("n", "7"), ("f", "1"), ("b", "True"), ("s", "12"), ("none", "ckpt")];
    let config = load(yaml, &args, &[]).unwrap_or_else(|error| panic!("{error}")).config;
    assert_eq!((config.seed, config.lr, config.report.html, config.report.examples), (7, 1.0, true, 14));
    assert_eq!((config.optax_name.as_str(), config.resume), ("12", Some(FilePath("ckpt".into()))));
}

#[test]
fn paths_are_found_beside_the_config() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.yaml");
    std::fs::write(dir.path().join("rows.jsonl"), "").unwrap();
    std::fs::write(dir.path().join("model.npz"), "").unwrap();
    let yaml = "input: {data: {name: bv:jsonl, fname: rows.jsonl, fopen_keys: {image: .}}}\n\
                model_init: {img: 'model.npz:img', llm: pt_224}\ntokenizer: nowhere.model\nresume: Cargo.toml\n";
    std::fs::write(&file, yaml).unwrap();
    let loaded = Config::load(&file, &[], &[]).unwrap();
    let config = &loaded.config;
    let InputData::Source(Source::Jsonl(jsonl)) = &config.input.as_ref().unwrap().data else {
        panic!("jsonl")
    };
    assert_eq!(jsonl.fname.as_path(), dir.path().join("rows.jsonl"));
    let npz = dir.path().join("model.npz:img").to_str().unwrap().to_owned();
    assert_eq!(config.model_init, Some(ModelInit::Towers { img: Some(npz), llm: Some("pt_224".into()) }));
    assert_eq!(config.tokenizer, Some(FilePath("nowhere.model".into())));
    // The working directory wins.
    assert_eq!(config.resume, Some(FilePath("Cargo.toml".into())));
    std::fs::write(dir.path().join("resolved.yaml"), loaded.to_yaml()).unwrap();
    assert_eq!(&Config::load(&dir.path().join("resolved.yaml"), &[], &[]).unwrap().config, config);

    let error = Config::load(&dir.path().join("none.yaml"), &[], &[]).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
}

config_section! {
    /// Arguments of an evaluator, as its owner declares them.
    pub struct PplxArgs {
        /// Batch entry.
        pub key: String = "labels".into();
        /// Whether labels are shifted.
        pub shift_labels: bool = false;
        /// Token that does not count.
        pub pad_token: Option<i64> = None;
    }
}

#[test]
fn owners_read_their_arguments_with_places() {
    let loaded = load(FORKME, &[], &[]).unwrap();
    let args: PplxArgs = loaded.config.evals.get("val/pplx").unwrap().args.parse().unwrap();
    assert_eq!(args, PplxArgs { key: "text".into(), shift_labels: true, pad_token: None });

    let loaded =
        load(FORKME, &[], &[("evals.val/pplx.pad_tokens", "0"), ("evals.val/pplx.key", "3")]).unwrap();
    let error = loaded.config.evals.get("val/pplx").unwrap().args.parse::<PplxArgs>().unwrap_err();
    let messages: Vec<&str> = error.diagnostics().iter().map(|d| d.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "unknown key \"pad_tokens\" in evals.val/pplx, did you mean \"pad_token\"",
            "evals.val/pplx.key is the integer 3, expected a string (put it in quotes)",
        ]
    );
    assert!(error.to_string().contains("--set evals.val/pplx.pad_tokens=0"), "{error}");
    // A misspelt key of the evaluation itself is not handed on.
    assert_eq!(
        mistakes(FORKME, &[("evals.val/pplx.log_step", "3")]),
        ["1:22: unknown key \"log_step\" in evals.val/pplx, did you mean \"log_steps\""]
    );

    let error = loaded.error_at("schedule.1.1.warmup_percent", "too long");
    let [diagnostic] = error.diagnostics() else { panic!("one problem") };
    assert!(diagnostic.excerpt.contains("warmup_percent: 0.05"), "{error}");
    assert_eq!(loaded.location("evals.val/pplx.key").unwrap(), "command line:1:26");
    assert_eq!(loaded.location("nothing"), None);
}

#[test]
fn the_reference_lists_every_key_once() {
    let rows = reference::rows();
    let mut seen = BTreeSet::new();
    // Kinds of sources may have keys of the same name.
    let mut kind = "";
    for row in &rows {
        kind = match row.key.as_str() {
            "input.data.name" => &row.type_name,
            key if key.starts_with("input.data.") => kind,
            _ => "",
        };
        assert!(seen.insert((row.key.clone(), kind)), "{} is there twice", row.key);
        assert!(!row.meaning.is_empty() && row.meaning.ends_with('.'), "{}: {}", row.key, row.meaning);
    }
    // Every key that a resolved config holds is in the reference.
    let Kind::Map(entries) = Config::default().encode().kind().clone() else { panic!("a map") };
    for entry in entries {
        let known = rows.iter().any(|row| row.key.split(", ").any(|key| key == entry.key()));
        assert!(known, "{} is not in the reference", entry.key());
    }
    let text = reference();
    assert!(text.contains(
        "| `input.batch_size` | integer, greater than 0 | `32` | Examples in one step, over all devices and processes. |"
    ));
    assert!(text.contains("| `log_training_steps`, `log_training_examples`, `log_training_epochs`, `log_training_percent` | duration | `log_training_steps: 50` |"));
    assert!(text.contains("| `input.data.fname` | path | - |"));
    let table: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    assert!(table.iter().all(|line| line.replace("\\|", "").matches('|').count() == 5));
}

proptest! {
    #[test]
    fn damaged_configs_are_mistakes_and_not_panics(at in 0..FORKME.len(), len in 0..40usize, put in "[ -~\n]{0,8}") {
        let end = (at + len).min(FORKME.len());
        let damaged = format!("{}{put}{}", &FORKME[..at], &FORKME[end..]);
        if let Err(error) = load(&damaged, &[("res", "448")], &[("input.data.stop", &put), (&put, "1")]) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

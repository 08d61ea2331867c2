//! The model, its gradients and the trainer against recordings of big_vision.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use paligemma::runtime::{Client, ClientOptions, Plugin, PluginKind, PluginRequest};
use paligemma::verify::{self, Check, Options};

fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let plugin =
            Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap_or_else(|e| panic!("{e}"));
        Client::new(&plugin, &ClientOptions::default()).unwrap_or_else(|e| panic!("{e}"))
    })
}

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model")
}

const REPLAYED: [Check; 5] = [Check::Forward, Check::Loss, Check::Grads, Check::Sgd, Check::Adam];

#[test]
fn every_recording_passes() {
    let options = Options { only: REPLAYED.to_vec(), ..Default::default() };
    let report = verify::replay(client(), &recordings(), &options).unwrap();
    println!("{}", report.to_text(false));
    assert!(report.passed(), "{}", report.to_text(false));
    assert_eq!(report.cases.len(), 4);
    assert!(report.cases.iter().all(|case| case.checks.len() == REPLAYED.len()));
}

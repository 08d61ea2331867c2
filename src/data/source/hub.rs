use std::path::PathBuf;

use super::Error;

/// A data set on the Hugging Face hub, at one revision, whose files are downloaded once and kept in the hub's own
/// cache (`HF_HOME`, or else `~/.cache/huggingface`).
///
/// A token for private and gated data sets is taken from `HF_TOKEN`, or from where `hf auth login` leaves it;
/// `HF_ENDPOINT` names another server. Without a connection, the files of an earlier download are used. All this
/// is there with the cargo feature `hub` only.
#[derive(Debug, Clone)]
pub struct HubDataset {
    repo: String,
    revision: String,
}

impl HubDataset {
    /// `repo` is `user/name`, `revision` a branch, tag or commit.
    pub fn new(repo: &str, revision: &str) -> Self {
        HubDataset { repo: repo.to_owned(), revision: revision.to_owned() }
    }

    /// Says that this build downloads nothing.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "hub"))]
    pub fn download(&self, _files: &[String], _endings: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let HubDataset { repo, revision } = self;
        Err(Error::Options {
            problem: format!(
                "{repo} ({revision}) is on the Hugging Face hub, and this build does not download: build with \
                 `--features hub`, or download the files and give their path"
            ),
        })
    }

    /// Downloads the files that `files` names, by name, folder or glob, or all that end in one of `endings`, unless
    /// they are there already. Gives their places, sorted by their names on the hub.
    ///
    /// # Errors
    /// When there is neither a connection nor an earlier download, the data set or a file does not exist, or a
    /// download fails.
    #[cfg(feature = "hub")]
    pub fn download(&self, files: &[String], endings: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let cache = hf_hub::Cache::from_env();
        let mut builder = hf_hub::api::sync::ApiBuilder::from_env().with_retries(3);
        if let Ok(token) = std::env::var("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        online::download(self, cache, builder, files, endings)
    }
}

#[cfg(feature = "hub")]
mod online {
    use std::path::{Component, Path, PathBuf};

    use hf_hub::api::sync::{Api, ApiBuilder};
    use hf_hub::{Cache, Repo, RepoType};

    use super::{Error, HubDataset};

    pub(super) fn download(
        dataset: &HubDataset,
        cache: Cache,
        builder: ApiBuilder,
        files: &[String],
        endings: &[&str],
    ) -> Result<Vec<PathBuf>, Error> {
        let fail = |what: &str, error: hf_hub::api::sync::ApiError| Error::Hub {
            what: what.to_owned(),
            repo: dataset.repo.clone(),
            revision: dataset.revision.clone(),
            source: Box::new(error),
        };
        let named = |revision: &str| {
            Repo::with_revision(dataset.repo.clone(), RepoType::Dataset, revision.to_owned())
        };
        let api: Api = builder.build().map_err(|error| fail("its files", error))?;
        let listed = api.repo(named(&dataset.revision)).info();
        let info = match listed {
            Ok(info) => info,
            Err(error) => {
                let Some(snapshot) = snapshot(&cache, named(&dataset.revision), dataset) else {
                    return Err(fail("the list of its files", error));
                };
                tracing::warn!(
                    "cannot ask the hub for {} ({error}): the files of an earlier download are used",
                    dataset.repo
                );
                let mut names = Vec::new();
                super::super::shards::list_below(&snapshot, &[""], &mut names)?;
                let names = names.iter().filter_map(|path| path.strip_prefix(&snapshot).ok()?.to_str());
                let names = names.map(str::to_owned).collect();
                return Ok(chosen(dataset, names, files, endings)?
                    .iter()
                    .map(|name| snapshot.join(name))
                    .collect());
            }
        };
        // By commit from here on, so that a branch that moves meanwhile does not mix two versions.
        let repo = api.repo(named(&info.sha));
        let names = info.siblings.into_iter().map(|file| file.rfilename).collect();
        let mut paths = Vec::new();
        for name in chosen(dataset, names, files, endings)? {
            paths.push(repo.get(&name).map_err(|error| fail(&name, error))?);
        }
        // For the next time, when there may be no connection.
        if let Err(error) = cache.repo(named(&dataset.revision)).create_ref(&info.sha) {
            tracing::warn!("cannot note the commit of {} in the cache: {error}", dataset.repo);
        }
        Ok(paths)
    }

    /// The folder of an earlier download, by the name of the revision or its commit.
    fn snapshot(cache: &Cache, repo: Repo, dataset: &HubDataset) -> Option<PathBuf> {
        let named = cache.repo(repo.clone()).get(".");
        let by_commit =
            || Some(cache.repo(repo).pointer_path(&dataset.revision)).filter(|path| path.is_dir());
        named.or_else(by_commit)
    }

    fn chosen(
        dataset: &HubDataset,
        names: Vec<String>,
        files: &[String],
        endings: &[&str],
    ) -> Result<Vec<String>, Error> {
        // Names come from a server and become paths.
        let is_inside =
            |name: &String| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        let mut names: Vec<String> = names.into_iter().filter(is_inside).collect();
        names.sort();
        let has_ending = |name: &str| endings.iter().any(|ending| name.ends_with(ending));
        if files.is_empty() {
            names.retain(|name| has_ending(name));
            return match names.is_empty() {
                true => {
                    Err(no_files(dataset, &format!("it has no files that end in {}", endings.join(" or "))))
                }
                false => Ok(names),
            };
        }
        let mut found: Vec<String> = Vec::new();
        for wanted in files {
            let glob = glob::Pattern::new(wanted)
                .map_err(|error| no_files(dataset, &format!("the glob {wanted} is wrong: {error}")))?;
            let folder = format!("{}/", wanted.trim_end_matches('/'));
            let is_meant = |name: &&String| {
                *name == wanted || glob.matches(name) || (name.starts_with(&folder) && has_ending(name))
            };
            let matching: Vec<&String> = names.iter().filter(is_meant).collect();
            if matching.is_empty() {
                return Err(no_files(dataset, &format!("it has no file {wanted}")));
            }
            found.extend(matching.into_iter().cloned());
        }
        let mut seen = std::collections::HashSet::new();
        found.retain(|name| seen.insert(name.clone()));
        Ok(found)
    }

    fn no_files(dataset: &HubDataset, problem: &str) -> Error {
        let pattern = format!("data set {} ({})", dataset.repo, dataset.revision).into();
        Error::NoFiles { pattern, problem: problem.to_owned() }
    }

    #[cfg(test)]
    mod tests {
        use std::collections::HashMap;
        use std::io::{BufRead, BufReader, Write};
        use std::net::TcpListener;
        use std::sync::{Arc, Mutex};

        use super::*;

        /// Answers as the hub does, from memory; returns its address and the paths it was asked for.
        fn serve(files: HashMap<String, Vec<u8>>) -> (String, Arc<Mutex<Vec<String>>>) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = asked.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let request = lines.next().unwrap().unwrap();
                    let headers: Vec<String> =
                        lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    log.lock().unwrap().push(path.clone());
                    let range = headers.iter().find_map(|line| {
                        let (name, value) = line.split_once(": ")?;
                        let value = value.strip_prefix("bytes=")?.to_owned();
                        name.eq_ignore_ascii_case("range").then_some(value)
                    });
                    let (status, body, total) = match files.get(&path) {
                        None => ("404 Not Found", Vec::new(), 0),
                        Some(body) => match range.as_deref().and_then(|range| range.split_once('-')) {
                            None => ("200 OK", body.clone(), body.len()),
                            Some((from, to)) => {
                                let from: usize = from.parse().unwrap();
                                let to = to.parse().map_or(body.len(), |to: usize| to + 1);
                                ("206 Partial Content", body[from..to].to_vec(), body.len())
                            }
                        },
                    };
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{total}\r\n\
                         ETag: \"tag{total}\"\r\nX-Repo-Commit: c0ffee\r\nConnection: close\r\n\r\n",
                        body.len()
                    );
                    stream.write_all(head.as_bytes()).unwrap();
                    stream.write_all(&body).unwrap();
                }
            });
            (endpoint, asked)
        }

        #[test]
        fn files_are_downloaded_once_and_then_there_without_a_connection() {
            let dir = tempfile::tempdir().unwrap();
            let list = br#"{"sha": "c0ffee", "siblings": [{"rfilename": "README.md"}, {"rfilename": "../evil.parquet"},
                {"rfilename": "data/test-00000-of-00001.parquet"}, {"rfilename": "data/train-00000-of-00001.parquet"}]}"#;
            let resolve = "/datasets/user/set/resolve/c0ffee/data";
            let files = HashMap::from([
                ("/api/datasets/user/set/revision/v1.0".to_owned(), list.to_vec()),
                (format!("{resolve}/test-00000-of-00001.parquet"), b"test".to_vec()),
                (format!("{resolve}/train-00000-of-00001.parquet"), b"train".to_vec()),
            ]);
            let (endpoint, asked) = serve(files);
            let cache = || Cache::new(dir.path().to_owned());
            let builder = |endpoint: &str| {
                ApiBuilder::from_cache(cache()).with_endpoint(endpoint.to_owned()).with_progress(false)
            };
            let dataset = HubDataset::new("user/set", "v1.0");
            let get = |endpoint: &str, files: &[&str]| {
                let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
                download(&dataset, cache(), builder(endpoint), &files, &[".parquet"])
            };
            let contents = |paths: Vec<PathBuf>| -> Vec<String> {
                paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
            };
            assert_eq!(contents(get(&endpoint, &["data/tr*"]).unwrap()), ["train"]);
            assert_eq!(contents(get(&endpoint, &[]).unwrap()), ["test", "train"]);
            assert_eq!(
                contents(get(&endpoint, &["data", "data/test-00000-of-00001.parquet"]).unwrap()),
                ["test", "train"]
            );
            // Each file was looked up and read once, the list each time.
            let count = |what: &str| asked.lock().unwrap().iter().filter(|path| path.contains(what)).count();
            assert_eq!((count("/api/"), count("train-"), count("test-"), count("evil")), (3, 2, 2, 0));

            let nobody = "http://127.0.0.1:9";
            assert_eq!(contents(get(nobody, &[]).unwrap()), ["test", "train"]);
            let missing = get(&endpoint, &["val*"]).unwrap_err();
            assert!(missing.is_usage());
            assert_eq!(missing.to_string(), "data set user/set (v1.0): it has no file val*");
            let other = HubDataset::new("user/other", "main");
            let error = download(&other, cache(), builder(&endpoint), &[], &[".parquet"]).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("cannot download the list of its files of data set user/other (main)"),
                "{error}"
            );
        }
    }
}

#[cfg(all(test, not(feature = "hub")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_the_feature_says_how_to_get_it() {
        let error = HubDataset::new("user/set", "main").download(&[], &[".parquet"]).unwrap_err();
        assert!(error.is_usage());
        assert!(error.to_string().contains("build with `--features hub`"), "{error}");
    }
}

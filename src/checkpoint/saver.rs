use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

use super::{Error, Frozen, Store};
use crate::array::HostArray;

/// Saves checkpoints on a thread of its own, so that training goes on meanwhile. At most one is in flight.
pub struct AsyncSaver {
    store: Arc<Store>,
    /// The thread that saves holds it.
    frozen: Arc<Mutex<Option<Frozen>>>,
    running: Option<JoinHandle<Result<PathBuf, Error>>>,
}

impl AsyncSaver {
    /// Saves to `store`; each checkpoint holds what `frozen` has besides.
    pub fn new(store: Arc<Store>, frozen: Option<Frozen>) -> Self {
        AsyncSaver { store, frozen: Arc::new(Mutex::new(frozen)), running: None }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Starts to save what [`Store::save_with`] would, after the previous save has finished. `tensors` is called
    /// on the thread that saves: it may wait for what is still on its way from the device.
    ///
    /// # Errors
    /// The previous save's; then the new one is not started.
    pub fn submit(
        &mut self,
        step: u64,
        tensors: impl FnOnce() -> Result<Vec<(String, HostArray)>, Error> + Send + 'static,
        state: Value,
        keep: bool,
    ) -> Result<(), Error> {
        self.wait()?;
        let (store, frozen) = (Arc::clone(&self.store), Arc::clone(&self.frozen));
        let save = move || {
            // What a save that panicked left there is looked at before it is used.
            let mut frozen = frozen.lock().unwrap_or_else(PoisonError::into_inner);
            store.save_with(frozen.as_mut(), step, tensors()?, state, keep)
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(save);
        self.running = Some(thread.map_err(Error::io("start the thread that saves", self.store.workdir()))?);
        Ok(())
    }

    /// Waits for the save in flight and gives its directory, or `None` when there is none.
    ///
    /// # Errors
    /// That save's, once.
    pub fn wait(&mut self) -> Result<Option<PathBuf>, Error> {
        let Some(running) = self.running.take() else { return Ok(None) };
        match running.join() {
            Ok(result) => result.map(Some),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(Error::SaverPanicked { message: text.unwrap_or("without a message").to_owned() })
            }
        }
    }

    /// Whether a save is still under way.
    pub fn is_saving(&self) -> bool {
        self.running.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for AsyncSaver {
    /// A checkpoint that was begun is completed, also when the run ends by an error.
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            tracing::error!("the last checkpoint was not saved: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Reader;
    use serde_json::json;

    #[test]
    fn saves_are_complete_after_wait_and_errors_arrive_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut saver = AsyncSaver::new(Arc::new(Store::open(dir.path()).unwrap()), None);
        let tensors = |value: f32| move || Ok(vec![("params/w".to_owned(), HostArray::scalar(value))]);
        saver.submit(1, tensors(1.0), json!({}), true).unwrap();
        saver.submit(2, tensors(2.0), json!({ "n": 2 }), false).unwrap();
        assert_eq!(saver.wait().unwrap(), Some(dir.path().join("checkpoint-000000002")));
        assert_eq!(saver.wait().unwrap(), None);
        assert_eq!(saver.store().steps().unwrap(), [1, 2]);

        let twice = move || Ok([tensors(3.0)()?, tensors(4.0)()?].concat());
        saver.submit(3, twice, json!({}), false).unwrap();
        let error = saver.submit(4, tensors(4.0), json!({}), false).unwrap_err();
        assert!(error.to_string().contains("\"params/w\" occurs twice"), "{error}");
        let lost = || Err(Error::State("the device is gone".into()));
        saver.submit(4, lost, json!({}), false).unwrap();
        let error = saver.wait().unwrap_err();
        assert!(error.to_string().contains("cannot be copied from the device"), "{error}");
        assert_eq!(saver.store().steps().unwrap(), [1, 2]);

        saver.submit(5, tensors(5.0), json!({}), false).unwrap();
        let store = Arc::clone(&saver.store);
        drop(saver);
        let latest = store.load_latest().unwrap().unwrap();
        assert_eq!(latest.checkpoint.step(), 5);
        assert_eq!(latest.checkpoint.read("params/w").unwrap().to_f64(), [5.0]);
    }
}

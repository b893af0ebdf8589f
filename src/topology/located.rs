//! A place that may take a while to be known.

use std::time::Duration;

use tokio::sync::watch;

use super::Place;

/// Where this node is, once that is known. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Located(watch::Sender<Result<Place, String>>);

impl Located {
    /// Known from the start.
    pub fn at(place: Place) -> Located {
        Located(watch::Sender::new(Ok(place)))
    }

    /// Not known yet, because of `why`.
    pub fn unknown(why: &str) -> Located {
        Located(watch::Sender::new(Err(why.to_owned())))
    }

    /// It is known now, or it is not because of something else.
    pub fn set(&self, place: Result<Place, String>) {
        drop(self.0.send_replace(place));
    }

    /// Where this is.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn get(&self) -> Result<Place, String> {
        Result::clone(&self.0.borrow())
    }

    /// Where this is, if that comes to be known within `patience`.
    ///
    /// # Errors
    /// Why it is not known then.
    pub async fn get_within(&self, patience: Duration) -> Result<Place, String> {
        // The sender lives in `self`, so that only the time can end.
        let _ = tokio::time::timeout(patience, self.0.subscribe().wait_for(Result::is_ok)).await;
        self.get()
    }
}

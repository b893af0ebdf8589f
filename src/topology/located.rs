//! A place that may take a while to be known.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Place;

/// Where this node is, once that is known. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Located(Arc<ArcSwap<Result<Place, String>>>);

impl Located {
    /// Known from the start.
    pub fn at(place: Place) -> Located {
        Located(Arc::new(ArcSwap::from_pointee(Ok(place))))
    }

    /// Not known yet, because of `why`.
    pub fn unknown(why: &str) -> Located {
        Located(Arc::new(ArcSwap::from_pointee(Err(why.to_owned()))))
    }

    /// It is known now, or it is not because of something else.
    pub fn set(&self, place: Result<Place, String>) {
        self.0.store(Arc::new(place));
    }

    /// Where this is.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn get(&self) -> Result<Place, String> {
        Result::clone(&self.0.load())
    }
}

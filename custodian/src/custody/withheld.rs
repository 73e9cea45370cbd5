//! A result that exists but has not been released.

use crate::{authority::Standing, log::Confirmed};

/// What the token made, kept back until the record of it is durable (law 1), wherever it must be: [`Confirmed`].
///
/// It also carries what must still be true in the settling transaction (law 2).
///
/// ```compile_fail
/// # fn peek<T>(withheld: custodian::custody::Withheld<T>) -> T {
/// withheld.secret
/// # }
/// ```
pub struct Withheld<T> {
    secret: T,
    standing: Standing,
}

impl<T> Withheld<T> {
    /// Keeps `secret` back until an attempt with this standing is settled.
    pub(crate) fn new(secret: T, standing: Standing) -> Self {
        Self { secret, standing }
    }

    /// What the settling transaction must find still true.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Makes something else of it, which is kept back in its place.
    ///
    /// # Errors
    /// Those of `make`. Then it is gone.
    pub(crate) fn try_map<U, E>(self, make: impl FnOnce(T) -> Result<U, E>) -> Result<Withheld<U>, E> {
        Ok(Withheld { secret: make(self.secret)?, standing: self.standing })
    }

    /// Lets it go: the record is proven to be durable.
    pub fn release(self, _: Confirmed) -> T {
        self.secret
    }
}

#[cfg(test)]
impl<T> Withheld<T> {
    /// For tests of the token, where there is no ledger.
    pub(crate) fn reveal(self) -> T {
        self.secret
    }
}

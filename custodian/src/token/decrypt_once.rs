//! C_Decrypt, called once.
//!
//! `cryptoki` calls it twice, for the length and for the plaintext. That doubles the work of a module that computes each
//! time, and the round trips to one that asks an HSM on the network. It does not hand out the function, so this file
//! asks the module for it again.

#![allow(unsafe_code, reason = "a foreign function that cryptoki does not call like this")]

use std::{mem, path::Path, ptr};

use cryptoki::{
    context::Function,
    error::{Error, Result, Rv},
    session::Session,
};
use cryptoki_sys::{CK_BYTE, CK_C_Decrypt, CK_ULONG};
use zeroize::Zeroizing;

/// Room for what the largest key that is served can decrypt, in bytes.
const ROOM: usize = 512;

/// The module's C_Decrypt. Never null.
#[derive(Clone, Copy)]
pub(super) struct DecryptOnce(CK_C_Decrypt);

impl DecryptOnce {
    /// That of a module which is loaded already: it is not loaded a second time.
    pub(super) fn of(module: &Path) -> Result<Self> {
        // SAFETY: loading a library runs its initialisers, which cryptoki has run before; this only counts another user.
        let library = unsafe { cryptoki_sys::Pkcs11::new(module) }?;
        if library.C_GetFunctionList.is_err() {
            return Err(Error::MissingSymbol("C_GetFunctionList"));
        }
        let mut functions = ptr::null_mut();
        // SAFETY: the function may be called at any time; it writes one pointer to where ours points.
        Rv::from(unsafe { library.C_GetFunctionList(&mut functions) })
            .into_result(Function::GetFunctionList)?;
        if functions.is_null() {
            return Err(Error::NullFunctionPointer);
        }
        // SAFETY: the module's own list, which lives as long as the library.
        let decrypt = unsafe { (*functions).C_Decrypt };
        // Loaded until the process ends: the pointer stays good.
        mem::forget(library);
        if decrypt.is_some() { Ok(Self(decrypt)) } else { Err(Error::NullFunctionPointer) }
    }

    /// Decrypts with the operation that the session has begun. The plaintext is overwritten when dropped.
    pub(super) fn decrypt(self, session: &Session, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let Some(decrypt) = self.0 else { return Err(Error::NullFunctionPointer) };
        let mut plaintext: Zeroizing<Vec<CK_BYTE>> = Zeroizing::new(vec![0; ROOM]);
        let mut length: CK_ULONG = plaintext.len().try_into()?;
        // SAFETY: `session` is open and of this module, since it was made by it. The ciphertext is read only (PKCS#11 has no
        // const), and at most `length` bytes are written to a buffer of that size.
        let code = unsafe {
            decrypt(
                session.handle(),
                ciphertext.as_ptr().cast_mut(),
                ciphertext.len().try_into()?,
                plaintext.as_mut_ptr(),
                &mut length,
            )
        };
        Rv::from(code).into_result(Function::Decrypt)?;
        let length = usize::try_from(length)?;
        if length > plaintext.len() {
            return Err(Error::InvalidValue);
        }
        plaintext.truncate(length);
        Ok(plaintext)
    }
}

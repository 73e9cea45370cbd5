//! The C side: the table of functions that is handed out, and what each does before it forwards.
//!
//! PKCS#11 is a C interface: without `unsafe` there is no module. It is here and nowhere else.
#![allow(unsafe_code, reason = "a PKCS#11 module is called from C, and calls C")]
#![allow(non_snake_case, clippy::too_many_arguments, reason = "the names and arguments are PKCS#11's")]

use std::{
    env,
    ffi::c_void,
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process,
    ptr::{self, null_mut},
    sync::OnceLock,
    thread,
    time::Duration,
};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BBOOL, CK_BYTE, CK_FLAGS, CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_INFO,
    CK_MECHANISM_TYPE, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_INFO, CK_SLOT_ID,
    CK_TOKEN_INFO, CK_ULONG, CK_USER_TYPE, CK_UTF8CHAR, CKR_ARGUMENTS_BAD, CKR_FUNCTION_NOT_SUPPORTED,
    CKR_GENERAL_ERROR, CKR_OK,
};
use rustix::process::Signal;

use crate::{Act, CONTROL_FOLDER, Function, REAL_MODULE, process::note_me, script::Script};

/// The module: the real one's table, ours, and what is to go wrong.
struct Module {
    real: CK_FUNCTION_LIST,
    ours: CK_FUNCTION_LIST,
    script: Script,
}

/// `None` if the real module cannot be loaded.
static MODULE: OnceLock<Option<Module>> = OnceLock::new();

/// The entry point of every PKCS#11 module (PKCS#11 2.40 §5.4). There is no C_GetInterface: callers fall back to this.
///
/// # Safety
/// `list` points to room for a pointer, or is null.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    let Some(module) = module() else { return CKR_GENERAL_ERROR };
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, and the caller vouches for the rest. The table lives as long as the process; the standard
    // forbids to write to it.
    unsafe { *list = ptr::from_ref(&module.ours).cast_mut() };
    CKR_OK
}

fn module() -> Option<&'static Module> {
    MODULE.get_or_init(|| Module::load().inspect_err(complain).ok()).as_ref()
}

/// Says it on standard error, which is the custodian's log.
fn complain(why: &impl Display) {
    // Without standard error nobody listens.
    drop(writeln!(io::stderr(), "faulty-pkcs11: {why}"));
}

impl Module {
    fn load() -> Result<Self, String> {
        let variable = |name| env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set"));
        let (path, folder) = (variable(REAL_MODULE)?, variable(CONTROL_FOLDER)?);
        // SAFETY: loading runs the library's constructors; the test vouches for the module that it names.
        let library = unsafe { cryptoki_sys::Pkcs11::new(&path) };
        let library = library.map_err(|error| format!("cannot load {}: {error}", path.display()))?;
        let entry = library.C_GetFunctionList.as_ref();
        let entry = *entry.map_err(|error| format!("{} is no PKCS#11 module: {error}", path.display()))?;
        let mut list = null_mut();
        // SAFETY: `list` is room for a pointer, as the function asks for.
        let answer = unsafe { entry(&raw mut list) };
        if answer != CKR_OK || list.is_null() {
            return Err(format!("{} gives no functions: {answer:#x}", path.display()));
        }
        // SAFETY: the module answered CKR_OK: it is a table of functions. Copied, since it is the module's.
        let real = unsafe { *list };
        let unnoted = |error| format!("cannot note this process in {}: {error}", folder.display());
        note_me(&folder).map_err(unnoted)?;
        // For good: its functions are called until the process ends.
        std::mem::forget(library);
        Ok(Self { real, ours: replaced(real), script: Script::new(folder) })
    }

    /// Does what is to be done before the real function, and says what is left to do.
    fn before(&self, function: Function, session: Option<CK_SESSION_HANDLE>) -> Next {
        let act = self.script.turn(function).unwrap_or_else(|trouble| {
            complain(&trouble);
            process::abort();
        });
        match act {
            None => return Next::Forward,
            Some(Act::Return(code)) => return Next::Return(code.0),
            Some(Act::DoThenReturn(code)) => return Next::ForwardThenReturn(code.0),
            Some(Act::FindNothing) => return Next::FindNothing,
            Some(Act::DelayMs(time)) => thread::sleep(Duration::from_millis(time)),
            Some(Act::Hang) => loop {
                thread::park();
            },
            Some(Act::Abort) => process::abort(),
            Some(Act::Segfault) => segfault(),
            Some(Act::Exit(code)) => process::exit(code),
            Some(Act::Logout) => self.log_out(function, session),
        }
        Next::Forward
    }

    fn log_out(&self, function: Function, session: Option<CK_SESSION_HANDLE>) {
        let (Some(session), Some(logout)) = (session, self.real.C_Logout) else {
            complain(&format!("{} has no session to log out", function.name()));
            process::abort();
        };
        // SAFETY: takes a number, and answers an error to one that is no session. That there was no login is as good.
        unsafe { logout(session) };
    }
}

/// What is left to do.
enum Next {
    Forward,
    Return(CK_RV),
    ForwardThenReturn(CK_RV),
    FindNothing,
}

/// Ends the process as a wild pointer does.
fn segfault() -> ! {
    let killed = rustix::process::kill_process(rustix::process::getpid(), Signal::SEGV);
    complain(&format!("still alive: {killed:?}"));
    process::abort()
}

/// What of its arguments a fault needs.
#[derive(Default)]
struct Within {
    session: Option<CK_SESSION_HANDLE>,
    /// How many things were found.
    count: Option<*mut CK_ULONG>,
    info: Option<*mut CK_TOKEN_INFO>,
}

fn nothing() -> Within {
    Within::default()
}

fn of(session: CK_SESSION_HANDLE) -> Within {
    Within { session: Some(session), ..Within::default() }
}

/// For each function one of the same type, which does what is to go wrong and calls the real one.
macro_rules! functions {
    ($($name:ident = $function:ident $within:expr => ($($arg:ident: $type:ty),*);)*) => {
        $(
            unsafe extern "C" fn $name($($arg: $type),*) -> CK_RV {
                let Some(module) = module() else { return CKR_GENERAL_ERROR };
                let Some(real) = module.real.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
                let within: Within = $within;
                let next = module.before(Function::$function, within.session);
                if let Next::Return(code) = next {
                    return code;
                }
                // SAFETY: the arguments are the caller's, and go as they are to a function of the same type.
                let answer = unsafe { real($($arg),*) };
                if answer == CKR_OK {
                    module.script.succeeded(Function::$function);
                    // SAFETY: what points somewhere is the caller's, and the real function has just written there.
                    unsafe { lie(module, &next, &within) };
                }
                match next {
                    Next::ForwardThenReturn(code) => code,
                    _ => answer,
                }
            }
        )*

        /// The real table with our functions in it, as far as there are any.
        fn replaced(real: CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
            let mut ours = real;
            ours.C_GetFunctionList = Some(C_GetFunctionList);
            $(ours.$name = real.$name.and(Some($name));)*
            ours
        }
    };
}

functions! {
    C_Initialize = Initialize nothing() => (args: *mut c_void);
    C_Finalize = Finalize nothing() => (reserved: *mut c_void);
    C_GetSlotList = GetSlotList Within { count: Some(count), ..nothing() } =>
        (present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG);
    C_GetTokenInfo = GetTokenInfo Within { info: Some(info), ..nothing() } =>
        (slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    C_GetMechanismList = GetMechanismList nothing() =>
        (slot: CK_SLOT_ID, mechanisms: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG);
    C_GetMechanismInfo = GetMechanismInfo nothing() =>
        (slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO);
    C_OpenSession = OpenSession nothing() =>
        (slot: CK_SLOT_ID, flags: CK_FLAGS, data: *mut c_void, notify: CK_NOTIFY, session: *mut CK_SESSION_HANDLE);
    C_CloseSession = CloseSession of(session) => (session: CK_SESSION_HANDLE);
    C_CloseAllSessions = CloseAllSessions nothing() => (slot: CK_SLOT_ID);
    C_GetSessionInfo = GetSessionInfo of(session) => (session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO);
    C_Login = Login of(session) =>
        (session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, pin_len: CK_ULONG);
    C_Logout = Logout of(session) => (session: CK_SESSION_HANDLE);
    C_CreateObject = CreateObject of(session) =>
        (session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG, object: *mut CK_OBJECT_HANDLE);
    C_CopyObject = CopyObject of(session) =>
        (session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
         copy: *mut CK_OBJECT_HANDLE);
    C_DestroyObject = DestroyObject of(session) => (session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE);
    C_GetAttributeValue = GetAttributeValue of(session) =>
        (session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG);
    C_SetAttributeValue = SetAttributeValue of(session) =>
        (session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG);
    C_FindObjectsInit = FindObjectsInit of(session) =>
        (session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG);
    C_FindObjects = FindObjects Within { count: Some(count), ..of(session) } =>
        (session: CK_SESSION_HANDLE, objects: *mut CK_OBJECT_HANDLE, room: CK_ULONG, count: *mut CK_ULONG);
    C_FindObjectsFinal = FindObjectsFinal of(session) => (session: CK_SESSION_HANDLE);
    C_EncryptInit = EncryptInit of(session) =>
        (session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Encrypt = Encrypt of(session) =>
        (session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE,
         out_len: *mut CK_ULONG);
    C_DecryptInit = DecryptInit of(session) =>
        (session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Decrypt = Decrypt of(session) =>
        (session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE,
         out_len: *mut CK_ULONG);
    C_SignInit = SignInit of(session) =>
        (session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Sign = Sign of(session) =>
        (session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE,
         out_len: *mut CK_ULONG);
    C_VerifyInit = VerifyInit of(session) =>
        (session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Verify = Verify of(session) =>
        (session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_len: CK_ULONG, signature: *mut CK_BYTE,
         signature_len: CK_ULONG);
    C_GenerateKey = GenerateKey of(session) =>
        (session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
         key: *mut CK_OBJECT_HANDLE);
    C_GenerateKeyPair = GenerateKeyPair of(session) =>
        (session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE,
         public_len: CK_ULONG, private: *mut CK_ATTRIBUTE, private_len: CK_ULONG,
         public_key: *mut CK_OBJECT_HANDLE, private_key: *mut CK_OBJECT_HANDLE);
    C_WrapKey = WrapKey of(session) =>
        (session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE,
         key: CK_OBJECT_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_UnwrapKey = UnwrapKey of(session) =>
        (session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, unwrapping: CK_OBJECT_HANDLE,
         wrapped: *mut CK_BYTE, wrapped_len: CK_ULONG, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
         key: *mut CK_OBJECT_HANDLE);
    C_GenerateRandom = GenerateRandom of(session) =>
        (session: CK_SESSION_HANDLE, out: *mut CK_BYTE, len: CK_ULONG);
}

/// Changes what a successful function has written.
///
/// # Safety
/// What `within` points to is null, or was just written by the real function.
unsafe fn lie(module: &Module, next: &Next, within: &Within) {
    // SAFETY: null or written, says the caller.
    if let Some(count) = within.count.and_then(|count| unsafe { count.as_mut() })
        && matches!(next, Next::FindNothing)
    {
        *count = 0;
    }
    // SAFETY: null or written, says the caller.
    if let Some(info) = within.info.and_then(|info| unsafe { info.as_mut() }) {
        match module.script.token() {
            Ok(token) => token.tell(info),
            Err(trouble) => {
                complain(&trouble);
                process::abort();
            }
        }
    }
}

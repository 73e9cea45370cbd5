//! What the model is fed with, and where each figure is from.

/// A figure, and where it is from.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// As a flag: `--rsa`.
    pub name: &'static str,
    /// In this unit.
    pub value: f64,
    /// `µs`
    pub unit: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Measured, by what; or whose claim it is; or assumed.
    pub from: &'static str,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Inputs {
    all: Vec<Input>,
}

impl Default for Inputs {
    /// Measured on one small machine (2 cores, AMD EPYC, a virtual disk). Absolute figures are this machine's: measure yours.
    fn default() -> Self {
        let input = |name, value, unit, what, from| Input { name, value, unit, what, from };
        let all = vec![
            input(
                "node",
                460.0,
                "µs",
                "processor time of an unwrap beside its RSA: network process and worker",
                "measured, `--bench unwrap`, 64 in flight",
            ),
            input(
                "rsa",
                2_400.0,
                "µs",
                "processor time of an RSA-3072 decryption in SoftHSM",
                "measured, `--bench unwrap`, bare",
            ),
            input(
                "fsync",
                150.0,
                "µs",
                "what a commit takes, whatever is in it",
                "measured, `--bench unwrap`",
            ),
            input(
                "record",
                105.0,
                "µs",
                "what each record adds to its commit",
                "measured, `--bench scale`: the committing thread",
            ),
            input("group", 256.0, "", "most records of one commit", "the program"),
            input("crowd", 16.0, "", "from so many under way on, a commit waits for company", "the program"),
            input(
                "gather",
                20_000.0,
                "µs",
                "how long at most: until a quarter of them have come",
                "the program",
            ),
            input(
                "second",
                0.0,
                "µs",
                "what a write to the second place takes; 0: there is none",
                "measure yours",
            ),
            input("cores", 2.0, "", "cores of a node", "the machine"),
            input(
                "hsm",
                300.0,
                "/s",
                "RSA-3072 decryptions of one network HSM",
                "a vendor's RSA-2048 figure by the cube of the length",
            ),
            input("trip", 500.0, "µs", "way to a network HSM and back", "assumed: one building"),
            input(
                "busy",
                70.0,
                "%",
                "how busy anything may be at the peak",
                "a choice: room for a failure, and for chance",
            ),
        ];
        Self { all }
    }
}

impl Inputs {
    /// The figure of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(&self, name: &str) -> f64 {
        let found = self.all.iter().find(|input| input.name == name);
        found.unwrap_or_else(|| panic!("there is no input {name}")).value
    }

    /// The same in seconds, of one in µs.
    pub fn seconds(&self, name: &str) -> f64 {
        self.of(name) / 1e6
    }

    /// Another figure in the place of one. `false`: there is none of this name.
    pub fn set(&mut self, name: &str, value: f64) -> bool {
        let found = self.all.iter_mut().find(|input| input.name == name);
        found.map(|input| (input.value, input.from) = (value, "given")).is_some()
    }

    /// All of them, in order.
    pub fn all(&self) -> &[Input] {
        &self.all
    }
}

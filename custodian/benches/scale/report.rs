//! What is printed: a line for each figure, and all of them as one JSON object if asked for.

use std::{fs, path::Path};

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// It is only told.
    None,
    /// Not above this.
    AtMost(f64),
}

/// The figures, in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Value>,
}

impl Report {
    /// Prints a figure and keeps it.
    pub(crate) fn row(&mut self, name: &str, value: f64, unit: &str, target: Target) {
        let (wanted, met) = match target {
            Target::None => (String::new(), None),
            Target::AtMost(most) => (format!("<= {most}"), Some(value <= most)),
        };
        let verdict = match met {
            None => "",
            Some(true) => "met",
            Some(false) => "NOT MET",
        };
        println!("{name:<72} {value:>10.2} {unit:<6} {wanted:>9}  {verdict}");
        let target = (!wanted.is_empty()).then_some(wanted);
        self.rows.push(json!({ "name": name, "value": value, "unit": unit, "target": target, "met": met }));
    }

    /// Writes all of them.
    pub(crate) fn write(&self, path: &Path) {
        let report = json!({ "bench": "scale", "rows": self.rows });
        fs::write(path, serde_json::to_string_pretty(&report).unwrap()).unwrap();
    }
}

//! The rows as a table, as JSON, as comma-separated values and on a page.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use welore_burn::calibrate::Calibration;

use super::Text;
use super::rows::Row;
use crate::args::CompareArgs;
use crate::shared::identity::{Identity, digest_of};
use crate::shared::page::{compared_models, write_page, write_picture};
use crate::{format, output};

/// What was compared.
pub struct Results<'a> {
    pub args: &'a CompareArgs,
    pub texts: &'a [Text],
    pub calibration: Option<&'a Calibration>,
    /// Duration of calibrating.
    pub calibration_seconds: f64,
    pub rows: &'a [Row],
    /// Duration of everything.
    pub seconds: f64,
}

impl Results<'_> {
    /// Prints the results, and writes the page if one was asked for.
    pub fn print(&self, identity: Option<&Identity>) -> Result<()> {
        let result = self.to_json();
        let model = &self.args.model;
        let models = || compared_models(&result).context("the rows are those of `compare`");
        write_page(&self.args.page, &format!("Ways to compress {}", model.display()), |page| {
            page.models(&models()?);
            Ok(())
        })?;
        if let Some(path) = &self.args.picture {
            // Where the model is does not belong in a document.
            let name = model.file_name().unwrap_or(model.as_os_str());
            write_picture(path, &format!("{}: size and divergence", name.display()), &models()?)?;
        }
        match identity {
            Some(identity) => output::print_json(&identity.with(result)),
            None if self.args.csv => self.print_csv(),
            None => self.print_table(),
        }
    }

    fn to_json(&self) -> Value {
        let texts: Vec<String> =
            self.texts.iter().map(|text| text.path.display().to_string()).collect();
        let digests: Vec<String> = self.texts.iter().map(|text| digest_of(&text.tokens)).collect();
        let mut all = json!({
            "texts": texts,
            "text_digests": digests,
            "windows": self.args.windows,
            "seq_len": self.texts.first().map(|text| text.seq_len),
            "skip": self.args.skip,
            "calibration": self.calibration.map(Calibration::digest),
            "calibrated_on": self.calibration.map(Calibration::texts),
            "calibration_seconds": self.calibration_seconds,
            "rows": self.rows,
            "seconds": self.seconds,
        });
        if let Some(text) = self.texts.first() {
            text.beginning.add_to(&mut all);
        }
        all
    }

    /// The file names of the texts after the first one.
    fn others(&self) -> Vec<String> {
        let others = self.texts[1..].iter();
        others.map(|text| text.path.file_name().unwrap_or_default().display().to_string()).collect()
    }

    /// The headers of the scores: `name` for the first text, and what `on` makes of the file name of
    /// each other one.
    fn scores(&self, name: &str, on: impl Fn(String) -> String) -> Vec<String> {
        [name.to_string()].into_iter().chain(self.others().into_iter().map(on)).collect()
    }

    /// Whether a row is of a series.
    fn has_series(&self) -> bool {
        self.rows.iter().any(|row| row.series.is_some())
    }

    /// The headers of what `names` gives.
    fn header(&self) -> Vec<&'static str> {
        let series = self.has_series().then_some("series");
        let others = ["method", "policy", "storage", "norm"];
        ["target"].into_iter().chain(series).chain(others).collect()
    }

    /// Target, series if there are any, method, policy, storage and norm of a row.
    fn names(&self, row: &Row) -> Vec<String> {
        let series = self.has_series().then(|| row.series.clone().unwrap_or_default());
        let storage = row.storage.clone().unwrap_or_default();
        let others = [row.method.clone(), row.policy.clone(), storage, row.norm.clone()];
        [row.label.clone()].into_iter().chain(series).chain(others).collect()
    }

    fn print_csv(&self) -> Result<()> {
        let mut scores = self.scores("perplexity", |text| format!("perplexity on {text}"));
        if self.args.kl {
            scores.extend(self.scores("kl", |text| format!("kl on {text}")));
        }
        let mut header: Vec<&str> = self.header();
        header.extend(scores.iter().map(String::as_str));
        header.extend(["parameters", "bytes", "kept", "lrcs", "seconds"]);
        let cells = |row: &Row| {
            let mut cells = self.names(row);
            cells.extend(row.perplexities.iter().chain(&row.kls).map(f64::to_string));
            cells.extend([row.parameters.to_string(), row.bytes.to_string()]);
            cells.extend([row.kept.to_string(), row.lrcs.to_string(), row.seconds.to_string()]);
            cells
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(cells).collect();
        output::print_block(&format::csv(&header, &rows))
    }

    fn print_table(&self) -> Result<()> {
        let mut scores = self.scores("perplexity", |text| text);
        if self.args.kl {
            scores.extend(self.scores("KL", |text| format!("KL on {text}")));
        }
        let mut header: Vec<&str> = self.header();
        header.extend(scores.iter().map(String::as_str));
        header.extend(["parameters", "size", "LRCs", "seconds"]);
        let cells = |row: &Row| {
            let mut cells = self.names(row);
            cells.extend(row.perplexities.iter().map(|value| format::perplexity(*value)));
            cells.extend(row.kls.iter().map(|value| format!("{value:.4}")));
            cells.extend([
                format::count(row.parameters),
                format::bytes(row.bytes),
                row.lrcs.to_string(),
                format!("{:.0}", row.seconds),
            ]);
            cells
        };
        let rows = self.rows.iter().map(cells).collect();
        output::print_block(&format::table(&header, rows))
    }
}

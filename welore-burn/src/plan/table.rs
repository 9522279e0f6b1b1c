//! A plan as a table for people.

use std::fmt;

use super::matrix_plan::MatrixPlan;
use super::plan_file::RankPlan;
use crate::escape::terminal;
use crate::modules::{Selection, natural_order};
use crate::named::named;

/// The matrices of a plan as text: one line for each, below a header. [`RankPlan::table`] makes one.
///
/// Names are escaped for terminals.
#[derive(Debug, Clone)]
pub struct PlanTable<'a> {
    matrices: Vec<&'a MatrixPlan>,
}

/// A column of a [`PlanTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanColumn {
    /// The name.
    Matrix,
    /// The shape `[out, in]`.
    Shape,
    /// The kept rank, of the full rank.
    Rank,
    /// The share of the parameters that is kept.
    Kept,
    /// How it will be stored.
    Form,
}

named!(PlanColumn {
    Matrix => "matrix", "by name, numbers in it as numbers";
    Shape => "shape", "most parameters first";
    Rank => "rank", "smallest share of the full rank first";
    Kept => "kept", "smallest share of the parameters first";
    Form => "form", "dense ones first, the others by rank";
});

impl RankPlan {
    /// The matrices as a table, in the order of the plan. The plan itself, as text, is this table and
    /// a line of totals.
    ///
    /// # Examples
    ///
    /// ```
    /// use safetensors::Dtype;
    /// use welore_burn::forms::Form;
    /// use welore_burn::modules::Selection;
    /// use welore_burn::plan::{MatrixPlan, PlanColumn, RankPlan};
    /// use welore_burn::spectrum::ModelSize;
    ///
    /// let size = ModelSize { parameters: 2 * 64 * 64, bytes: 4 * 2 * 64 * 64 };
    /// let matrix = |name: &str, form| MatrixPlan::new(name, [64, 64], form, Dtype::F32);
    /// let matrices = vec![matrix("up", Form::dense()), matrix("down", Form::factors(8))];
    /// let plan = RankPlan::new("by hand", size, matrices)?;
    /// println!("{plan}");
    /// let table = plan.table().filtered(&Selection::of(["down"])?).sorted_by(PlanColumn::Kept);
    /// assert!(table.to_string().ends_with("down    64x64  8 of 64  25.0%  two factors of rank 8"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn table(&self) -> PlanTable<'_> {
        PlanTable { matrices: self.matrices.iter().collect() }
    }
}

impl PlanTable<'_> {
    /// Only the selected matrices.
    #[must_use]
    pub fn filtered(mut self, selection: &Selection) -> Self {
        self.matrices.retain(|matrix| selection.matches(matrix.name.as_str()));
        self
    }

    /// In the order of a column; matrices with equal entries keep their order.
    #[must_use]
    pub fn sorted_by(mut self, column: PlanColumn) -> Self {
        let kept_ranks = |m: &MatrixPlan| m.rank as f64 / m.full_rank as f64;
        self.matrices.sort_by(|a, b| match column {
            PlanColumn::Matrix => natural_order(a.name.as_str(), b.name.as_str()),
            PlanColumn::Shape => b.parameters_before.cmp(&a.parameters_before),
            PlanColumn::Rank => kept_ranks(a).total_cmp(&kept_ranks(b)),
            PlanColumn::Kept => kept(a).total_cmp(&kept(b)),
            PlanColumn::Form => a.form.rank().cmp(&b.form.rank()),
        });
        self
    }
}

/// The share of the parameters of a matrix that is kept.
fn kept(matrix: &MatrixPlan) -> f64 {
    matrix.parameters_after as f64 / matrix.parameters_before.max(1) as f64
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn cells(matrix: &MatrixPlan) -> [String; COLUMNS] {
    let [out, inputs] = matrix.shape;
    let fixed = if matrix.fixed { ", fixed" } else { "" };
    let adapted = if matrix.adapted { ", adapted" } else { "" };
    let grows = if matrix.grows { ", grows" } else { "" };
    [
        terminal(matrix.name.as_ref()).into_owned(),
        format!("{out}x{inputs}"),
        format!("{} of {}", matrix.rank, matrix.full_rank),
        percent(kept(matrix)),
        format!("{}{fixed}{adapted}{grows}", matrix.form),
    ]
}

const COLUMNS: usize = 5;

impl fmt::Display for PlanTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["matrix", "shape", "rank", "kept", "form"].map(String::from);
        let rows: Vec<_> =
            [header].into_iter().chain(self.matrices.iter().map(|matrix| cells(matrix))).collect();
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        let [names, shapes, ranks, shares, _] = widths;
        for (number, [name, shape, rank, share, form]) in rows.iter().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(
                f,
                "{end}{name:<names$}  {shape:>shapes$}  {rank:>ranks$}  {share:>shares$}  {form}"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for RankPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        write!(
            f,
            "{}\n\n{} of {} matrices are factored, {} of all matrices' parameters kept; the model \
             keeps {} of {} parameters",
            self.table(),
            totals.lrcs,
            totals.matrices,
            percent(totals.keep_params),
            totals.parameters_after,
            totals.parameters_before
        )
    }
}

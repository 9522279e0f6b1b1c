//! The model card of a compressed model: its `README.md`.

use std::fmt::Write;

use super::base_model::{licence_of, metadata_of, name_of, where_stated};
use super::loading::loading;
use crate::calibrate::{CalibrationAmount, GradientLabels};
use crate::channels::JointPlan;
use crate::escape::{markdown, markdown_code};
use crate::plan::{ExpectedSpeed, RankPlan, Target};
use crate::spectrum::{ModelSize, SpectrumUnit};
use crate::words::{number_of, number_of_matrices};

/// Rows of measured quality go before this line.
pub(super) const MEASURED: &str = "<!-- measured -->";

pub(super) const MEASURED_TITLE: &str = "## Measured quality";
pub(super) const HEADER: &str = "| score | value | of | by |\n|---|---|---|---|";

/// What a model card is made from.
#[derive(Debug, Clone, Copy)]
pub struct ModelCard<'a> {
    /// The base model that was compressed, by a name for people.
    pub base: &'a str,
    /// The model card of the base model, if it has one. Its licence applies to the compressed
    /// model.
    pub base_card: Option<&'a str>,
    /// How it was compressed.
    pub plan: &'a RankPlan,
    /// The plan of channels and ranks together that it is part of, if it is.
    pub joint: Option<&'a JointPlan>,
    /// Number of factored matrices that are convolutions.
    pub convolutions: usize,
    /// Which labels the gradients of its calibration are for, if that is known.
    pub gradient_labels: Option<GradientLabels>,
    /// The program that made it.
    pub made_by: &'a str,
}

impl ModelCard<'_> {
    /// The card in Markdown, with the metadata that model hubs read.
    pub fn to_markdown(&self) -> String {
        let mut card = self.metadata() + &self.summary();
        let _ = write!(
            card,
            "{MEASURED_TITLE}\n\n\
             `welore-cli eval DIR --text FILE --record` adds a row.\n\n\
             {HEADER}\n{MEASURED}\n\n\
             {}\
             ## Licence\n\n\
             A compressed model is a work derived from its base model, whose licence applies{}.\n",
            self.usage(),
            where_stated(&licence_of(self.base_card))
        );
        card
    }

    /// How the model is loaded.
    fn usage(&self) -> String {
        format!(
            "## Use\n\n\
             With welore: `welore-cli generate DIR --prompt TEXT`; `welore-cli export DIR --dense \
             -o OUT` writes a dense model {}\n\n",
            loading(self)
        )
    }

    /// How many matrices are in blocks.
    pub(super) fn packed(&self) -> usize {
        self.plan.matrices.iter().filter(|matrix| matrix.form.is_packed()).count()
    }

    /// What the plan was made from.
    fn basis(&self) -> String {
        let plan = self.plan;
        let measured = match (self.packed(), plan.unit) {
            (0, SpectrumUnit::Weights) => "singular values of the weights",
            (0, SpectrumUnit::Inputs) => "singular values of the weights times their inputs",
            (0, SpectrumUnit::Loss) => "singular values of the weights in the norm of the loss",
            (_, SpectrumUnit::Loss) => "errors of what is stored, in the norm of the loss,",
            _ => "errors of what is stored",
        };
        let calibrated = match (plan.calibration.is_some(), plan.unit, self.gradient_labels) {
            (false, ..) => "",
            (true, SpectrumUnit::Loss, Some(GradientLabels::Model)) => {
                " on a calibration text, with gradients for tokens that the model drew"
            }
            (true, ..) => " on a calibration text",
        };
        format!("{measured}{calibrated}")
    }

    /// The size of the base model.
    fn before(&self) -> ModelSize {
        let totals = &self.plan.totals;
        let (parameters, bytes) = match self.joint {
            Some(joint) => (joint.channels.parameters_before, joint.channels.bytes_before),
            None => (totals.parameters_before, totals.bytes_before),
        };
        ModelSize { parameters, bytes }
    }

    /// The expected speed, as a multiple of that of the base model.
    fn speed(&self) -> ExpectedSpeed {
        self.joint.map_or(self.plan.totals.expected_speed, |joint| joint.expected_speed)
    }

    /// The line on channels, if there are fewer.
    fn channels(&self) -> String {
        let Some(joint) = self.joint else { return String::new() };
        let widths = joint.channels.describe_widths();
        format!(
            "- Channels: {widths} in each MLP, which `welore_channels.json` lists. Down projections \
             were fitted again to fewer channels.\n"
        )
    }

    /// What was done to which model.
    fn summary(&self) -> String {
        const BLOCKS: &str = "its weight matrices stored in blocks of llama.cpp's types";
        let Self { base, plan, made_by, .. } = *self;
        let name = name_of(base);
        let totals = &plan.totals;
        let target = match plan.target {
            Some(Target::Err(err)) => format!("effective rank reduction (ERR) {err}"),
            Some(Target::ErrApplied(err)) => {
                format!("effective rank reduction (ERR) {err}, counted over the factored matrices")
            }
            Some(Target::KeepParams(share)) => format!("keep {share} of the matrices' parameters"),
            Some(Target::MaxBytes(bytes)) => format!("at most {bytes} bytes"),
            None => "chosen by hand".into(),
        };
        let are_factored = if totals.lrcs == 1 { "is factored" } else { "are factored" };
        let all = number_of_matrices(totals.matrices);
        let (stored, in_blocks) = match self.packed() {
            0 => ("its low-rank weight matrices stored as factors", String::new()),
            1 => (BLOCKS, format!("- 1 of {all} is in blocks.\n")),
            packed => (BLOCKS, format!("- {packed} of {all} are in blocks.\n")),
        };
        let prospect = plan
            .prospect()
            .map(|prospect| format!("- Without tuning, this compression {prospect}.\n"));
        format!(
            "# {}, {}\n\n\
             This is {} with {stored}, made by {} following \
             WeLore ([arXiv 2407.11239](https://arxiv.org/abs/2407.11239)).\n\n\
             | | before | after |\n|---|---|---|\n\
             | parameters | {} | {} |\n\
             {}\n\n\
             - Target: {target}; policy {}, {}.\n\
             {in_blocks}{}{}- {} of {all} {are_factored}. {:.4} of all ranks are removed; {:.4} were \
             planned (ERR).\n\
             - Expected speed on a CPU: {:.2}x the dense model's with many tokens at a time, \
             {:.2}x with one.\n\
             {}{}- `welore_plan.json` lists the rank of every matrix.\n\n",
            markdown(name),
            if in_blocks.is_empty() { "low-rank" } else { "compressed" },
            markdown_code(base),
            markdown(made_by),
            self.before().parameters,
            totals.parameters_after,
            bytes_row(self.before().bytes, totals.bytes_after),
            markdown_code(&plan.policy),
            self.basis(),
            self.calibrated(),
            self.adapted(),
            totals.lrcs,
            totals.err_applied,
            totals.err,
            self.speed().many_tokens,
            self.speed().one_token,
            self.channels(),
            prospect.unwrap_or_default(),
        )
    }

    /// How much text it was calibrated on, and whether matrices were made in the order of use.
    fn calibrated(&self) -> String {
        let amount = self.plan.calibrated_on.map(|amount| {
            let CalibrationAmount { windows, gradient_windows, seq_len } = amount;
            let windows = number_of(windows, "window");
            format!(
                "- Calibrated on {windows} of {seq_len} tokens, with gradients on {gradient_windows} \
                 of them.\n"
            )
        });
        let order = match self.plan.sequential {
            true => {
                "- Matrices were made in the order of use, each for the inputs that those before it \
                 leave.\n"
            }
            false => "",
        };
        amount.unwrap_or_default() + order
    }

    /// How many dense matrices are not those of the model.
    fn adapted(&self) -> String {
        let adapted = self.plan.matrices.iter().filter(|matrix| matrix.adapted).count();
        let have = if adapted == 1 { "matrix has" } else { "matrices have" };
        match adapted {
            0 => String::new(),
            count => format!(
                "- {count} dense {have} other entries than in the original, which correct the errors \
                 of those before them.\n"
            ),
        }
    }

    fn metadata(&self) -> String {
        format!(
            "---\n{}tags:\n- welore\n- low-rank\n---\n\n",
            metadata_of(self.base, self.base_card)
        )
    }
}

/// How the row of sizes begins.
pub(super) const BYTES: &str = "| bytes | ";

/// The row of sizes.
pub(super) fn bytes_row(before: u64, after: u64) -> String {
    format!("{BYTES}{before} | {after} |")
}

#[cfg(test)]
mod tests {
    use super::super::changed_card::{converted_card, tuned_card};
    use super::super::measurement::Measurement;
    use super::*;
    use crate::forms::Precision;
    use crate::plan::{PlanOptions, WeLore, make_plan};
    use crate::spectrum::Spectra;

    fn plan() -> RankPlan {
        let spectra = Spectra::from_json(
            &serde_json::json!({
                "format": "welore-spectra", "version": 1, "source": "here",
                "model": { "parameters": 64, "bytes": 256 },
                "matrices": [{
                    "name": "a", "shape": [8, 8], "dtype": "F32",
                    "singular_values": [8.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05],
                }],
            })
            .to_string(),
        );
        let options = PlanOptions::new(0.75);
        make_plan(&spectra.unwrap(), &WeLore, &options).unwrap()
    }

    fn card_of(
        base: &str,
        base_card: Option<&str>,
        plan: &RankPlan,
        convolutions: usize,
    ) -> String {
        let (gradient_labels, made_by) = (None, "test 1");
        let joint = None;
        ModelCard { base, base_card, plan, joint, convolutions, gradient_labels, made_by }
            .to_markdown()
    }

    fn card(base: &str, base_card: Option<&str>) -> String {
        card_of(base, base_card, &plan(), 0)
    }

    #[test]
    fn a_card_says_what_was_done_and_carries_the_licence_of_its_base() {
        let base =
            "---\nlicense: apache-2.0\nlanguage: en\nlicense_link: https://a.b/c\n---\n# x\n";
        let text = card("org/model", Some(base));
        assert!(text.starts_with("---\nlicense: apache-2.0\nlicense_link: https://a.b/c\n"));
        assert!(text.contains("base_model: org/model\n") && text.contains("# model, low-rank"));
        assert!(text.contains("| parameters | 64 | 48 |"), "{text}");
        assert!(
            text.contains(
                "1 of 1 matrix is factored. 0.6250 of all ranks are removed; 0.6250 were"
            ),
            "{text}"
        );
        assert!(text.contains("(\"DIR\", trust_remote_code=True)\ntokenizer"), "{text}");
    }

    #[test]
    fn a_card_has_pytorch_code_only_where_transformers_has_such_layers() {
        let text = |plan: &RankPlan| card_of("m", None, plan, 0);
        let mut packed = plan();
        packed.matrices[0].form =
            serde_json::from_value(serde_json::json!({ "kind": "blocks", "type": "q8_0" }))
                .unwrap();
        let mut experts = plan();
        experts.matrices[0].name = "model.layers.0.mlp.experts.3.up_proj".into();
        for plan in [&packed, &experts] {
            assert!(!text(plan).contains("```"), "{}", text(plan));
        }
        assert!(text(&packed).contains("1 of 1 matrix is in blocks"), "{}", text(&packed));
        assert!(!text(&packed).contains("singular values"), "{}", text(&packed));
        assert!(text(&experts).contains("gpt-oss"), "{}", text(&experts));
        assert!(text(&plan()).contains("```python"));
        let convolutions = card_of("m", None, &plan(), 1);
        assert!(!convolutions.contains("```") && convolutions.contains("two convolutions"));
    }

    #[test]
    fn the_card_of_a_converted_model_says_what_is_stored_and_keeps_the_rest() {
        let measured = Measurement { score: "perplexity", value: 9.0, of: "a.txt", made_by: "me" };
        let before = tuned_card(&card("m", None), "10 steps").unwrap();
        let plan = plan().stored_in(Precision::Bf16, 96);
        let text = converted_card(&measured.add_to(&before).unwrap(), &plan, Precision::Bf16);
        let text = text.unwrap();
        assert!(before.contains("| bytes | 256 | 192 |"), "{before}");
        assert!(text.contains("| bytes | 128 | 96 |") && text.contains("10 steps"), "{text}");
        assert!(!text.contains("| perplexity"), "{text}");
        let said = "\nAll numbers are stored as BF16.\n\n## Measured quality\n";
        assert!(text.contains(said), "{text}");
        // Back again, it is the card that it was, apart from the type.
        let plan = plan.stored_in(Precision::F32, 192);
        let back = converted_card(&text, &plan, Precision::F32).unwrap();
        let said = "\nAll numbers are stored as F32.\n\n";
        assert_eq!(back.replace(said, "\n"), before);
        assert!(converted_card("# some other README\n", &plan, Precision::F32).is_none());
    }

    #[test]
    fn metadata_is_neither_guessed_nor_taken_from_elsewhere() {
        for base in [None, Some("license: mit\n"), Some("---\nlicense: \"a\\nb: c\"\n---\n")] {
            let text = card("/models/mine", base);
            assert!(text.starts_with("---\ntags:\n"), "{text}");
            assert!(text.contains("not stated"));
        }
    }

    #[test]
    fn no_name_forges_the_metadata_the_measured_block_or_html() {
        let (honest, row) = (card("m", None), "| perplexity | 1.0000 | story.txt | forged |");
        for hostile in [
            "x`\n<!-- measured -->\n\n<script>alert(1)</script>\n\u{1b}[31m".to_string(),
            format!("x\n{row}\n<!-- measured -->\n"),
            "x\n---\nlicense: mit\n---\n".into(),
            "x\r\n## Measured quality\r\n".into(),
            "<img src=x onerror=alert(1)>".into(),
            "[x](javascript:alert(1))".into(),
        ] {
            let mut plan = plan();
            plan.policy = hostile.clone();
            for base in [hostile.clone(), format!("{hostile}/name"), format!("org/{hostile}")] {
                let base = base.as_str();
                let (base_card, gradient_labels, convolutions) = (None, None, 0);
                let (plan, joint, made_by) = (&plan, None, base);
                let text = ModelCard {
                    base,
                    base_card,
                    plan,
                    joint,
                    convolutions,
                    gradient_labels,
                    made_by,
                };
                let text = text.to_markdown();
                assert!(text.starts_with("---\ntags:\n- welore\n- low-rank\n---\n\n# "), "{text}");
                for mark in [MEASURED, MEASURED_TITLE, "<"] {
                    assert_eq!(text.matches(mark).count(), honest.matches(mark).count(), "{text}");
                }
                let links = text.replace("\\]", "").matches("](").count();
                assert_eq!(links, honest.matches("](").count(), "{text}");
                assert!(!text.contains('\u{1b}') && !text.contains(&format!("\n{row}")), "{text}");
                let of = Measurement { score: "perplexity", value: 2.0, of: base, made_by: base };
                let measured = of.add_to(&text).unwrap();
                assert_eq!(measured.matches(MEASURED).count(), 1, "{measured}");
                assert_eq!(measured.lines().count(), text.lines().count() + 1, "{measured}");
                let tuned = tuned_card(&measured, &hostile).unwrap();
                assert_eq!(tuned.matches(MEASURED_TITLE).count(), 1, "{tuned}");
            }
        }
    }

    #[test]
    fn measurements_are_added_and_replaced() {
        let measured =
            |value, of| Measurement { score: "perplexity", value, of, made_by: "test 1" };
        let text = card("m", None);
        let text = measured(9.0, "a.txt, 4 blocks").add_to(&text).unwrap();
        let text = measured(8.0, "b|.txt").add_to(&text).unwrap();
        let text = measured(7.0, "a.txt, 4 blocks").add_to(&text).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| perpl")).collect();
        assert_eq!(
            rows,
            [
                "| perplexity | 8.0000 | b\\|.txt | test 1 |",
                "| perplexity | 7.0000 | a.txt, 4 blocks | test 1 |"
            ]
        );
        assert!(measured(1.0, "x").add_to("# some other README\n").is_none());

        let tuned = tuned_card(&text, "LRCs, 10 steps").unwrap();
        let said = "\nFine-tuned after compression: LRCs, 10 steps.\n\n## Measured quality\n";
        assert!(tuned.contains(said));
        assert!(!tuned.contains("| perplexity"));
        let text = measured(6.0, "a.txt").add_to(&tuned).unwrap();
        assert!(text.contains("|---|---|---|---|\n| perplexity | 6.0000 | a.txt |"), "{text}");
        assert!(tuned_card("# some other README\n", "").is_none());
    }
}

//! Texts as tokens.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use welore_burn::data::{
    ChatOptions, ChatTemplate, Conversation, Lesson, LessonsCut, Marks, TextTokenizer, Texts,
    TokenRows, join_documents, read_documents, read_texts,
};
use welore_burn::eval::PerplexityOptions;
use welore_burn::model::{DecoderConfig, TextWindows};
use welore_burn::progress::Interrupted;

use super::beginning::Beginning;
use super::chatting::template_of;
use crate::args::BosArg;
use crate::failure::WrongInput;
use crate::format::number_of;
use crate::models::{Wanted, check_kind};
use crate::terminal::must_stop;

/// Reads the documents of a text that the user named.
pub fn documents_of(path: &Path) -> Result<Vec<String>> {
    check_kind(path, Wanted::Text)?;
    Ok(read_documents(path)?)
}

/// Reads the texts or conversations that the user named.
pub fn texts_of(path: &Path) -> Result<Texts> {
    check_kind(path, Wanted::Text)?;
    Ok(read_texts(path)?)
}

/// Reads several texts that follow each other, or several files of conversations.
///
/// # Errors
///
/// Also [`WrongInput`] if some are texts and others conversations.
pub fn all_texts_of(paths: &[PathBuf]) -> Result<Texts> {
    let (mut documents, mut conversations) = (Vec::new(), Vec::new());
    for path in paths {
        match texts_of(path)? {
            Texts::Documents(more) => documents.extend(more),
            Texts::Conversations(more) => conversations.extend(more),
        }
    }
    match (documents.is_empty(), conversations.is_empty()) {
        (_, true) => Ok(Texts::Documents(documents)),
        (true, false) => Ok(Texts::Conversations(conversations)),
        (false, false) => {
            let message = "--text: some files are texts, others conversations";
            Err(WrongInput::with_hint(message, "train on one kind after the other").into())
        }
    }
}

/// Warns of a text to learn from that is full of marks such as `<unk>`.
pub fn warn_of_marks(path: &Path, documents: &[String]) {
    if let Some(marks) = Marks::find(documents) {
        tell!(
            "warning: {}: {marks}; a model that learns from it writes such marks; use the \
             original text",
            path.display()
        );
    }
}

/// Tokens per window of a text whose perplexity is measured: as many as `given`, else the usual
/// number, or the model's context if that is shorter.
pub fn window_of(given: Option<usize>, config: &DecoderConfig) -> usize {
    let usual = PerplexityOptions::default().seq_len;
    given.unwrap_or(usual.min(config.context()).max(2))
}

/// What helps a model that has no chat template, where it learns from conversations.
const NO_TEMPLATE: &str = "`train`, `eval` and `calibrate` take one with --template FILE; or save it as \
     chat_template.jinja in the model directory, which `welore-cli export MODEL --dtype TYPE -o DIR` \
     makes of any model";

/// Why a chat template has no effect on texts.
pub const NO_CONVERSATIONS: &str = "only with conversations, and the texts have none";

/// The chat template that a model learns conversations with: that of a file, or the model's own.
pub fn template_to_learn(file: Option<&Path>, dir: &Path) -> Result<ChatTemplate> {
    match file {
        Some(file) => Ok(ChatTemplate::open_file(file, dir)?),
        None => template_of(dir, NO_TEMPLATE),
    }
}

/// The tokenizer of a model, and the tokens that begin and end its texts.
#[derive(Debug)]
pub struct TextReader {
    /// The directory of the model.
    dir: PathBuf,
    /// The most tokens that the model sees at once.
    context: usize,
    /// The chat template, if it is not the model's own.
    template: Option<PathBuf>,
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The token after each of several documents.
    pub end: Option<u32>,
    /// What begins with the token that begins texts.
    pub beginning: Beginning,
}

impl TextReader {
    /// The tokenizer of a model directory, for texts that begin as it is asked for.
    pub fn open(dir: &Path, config: &DecoderConfig, bos: BosArg) -> Result<Self> {
        let end = config.eos_token_ids.first().copied();
        let tokenizer = TextTokenizer::open(dir)?;
        let beginning = Beginning::of(bos, &tokenizer, config)?;
        let (dir, context, template) = (dir.into(), config.context(), None);
        Ok(Self { dir, context, template, tokenizer, end, beginning })
    }

    /// The same for conversations in the template of a file, if there is one.
    pub fn with_template(self, file: Option<&Path>) -> Self {
        Self { template: file.map(PathBuf::from), ..self }
    }

    /// The tokens of documents in windows of `seq_len` tokens that follow each other, with what begins
    /// them. The last one may be shorter.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub fn windows(&self, documents: &[String], seq_len: usize) -> Result<Vec<u32>> {
        Ok(TextWindows::new(&self.tokens(documents)?, self.beginning.bos, seq_len).all())
    }

    /// The tokens of a file, without what begins them.
    pub fn read(&self, path: &Path) -> Result<Vec<u32>> {
        self.tokens(&documents_of(path)?)
    }

    /// The documents of texts: conversations become text by a chat template.
    pub fn documents<'t>(&self, path: &Path, texts: &'t Texts) -> Result<Cow<'t, [String]>> {
        let all = match texts {
            Texts::Documents(documents) => return Ok(documents.into()),
            Texts::Conversations(all) => all,
        };
        let template = template_to_learn(self.template.as_deref(), &self.dir)?;
        let text = |(line, conversation): &(usize, Conversation)| -> Result<String> {
            check_interrupted()?;
            let text = template.text(conversation, &options_to_learn());
            text.with_context(|| place_in(path, *line))
        };
        Ok(all.iter().map(text).collect::<Result<Vec<_>>>()?.into())
    }

    /// What a model learns from conversations, as rows of at most `seq_len` tokens: what the assistant says. Also
    /// what became of long ones.
    ///
    /// # Errors
    ///
    /// Also [`WrongInput`] if there is no row.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub fn lessons(
        &self,
        path: &Path,
        all: &[(usize, Conversation)],
        seq_len: usize,
    ) -> Result<(TokenRows, LessonsCut)> {
        let template = template_to_learn(self.template.as_deref(), &self.dir)?;
        let mut texts = Vec::new();
        for (line, conversation) in all {
            check_interrupted()?;
            let lessons = template.lessons(conversation, &options_to_learn());
            for Lesson { text, learnt } in lessons.with_context(|| place_in(path, *line))? {
                texts.push(self.tokenizer.encode_spans(&text, &learnt)?);
            }
        }
        let (rows, cut) = TokenRows::lessons(texts, seq_len);
        match rows.is_empty() {
            true => Err(self.nothing_said(path, cut, seq_len).into()),
            false => Ok((rows, cut)),
        }
    }

    /// What is wrong with conversations that have nothing of the assistant within a row, and what helps.
    fn nothing_said(&self, path: &Path, cut: LessonsCut, seq_len: usize) -> WrongInput {
        let (path, context) = (path.display(), self.context);
        let Some(shortest) = cut.shortest_dropped else {
            let message = format!("{path}: the assistant says nothing");
            return WrongInput::with_hint(message, "its messages have the role `assistant`");
        };
        let hint = match shortest <= context {
            true => format!("--seq-len {shortest} holds the shortest conversation"),
            false => format!(
                "the shortest conversation has {shortest} tokens, more than the model's context of \
                 {context}"
            ),
        };
        let message = format!("{path}: the assistant says nothing within {seq_len} tokens");
        WrongInput::with_hint(message, hint)
    }

    /// The tokens of documents, without what begins them.
    pub fn tokens(&self, documents: &[String]) -> Result<Vec<u32>> {
        Ok(join_documents(documents, &self.tokenizer, self.end)?)
    }
}

/// Says what counts of conversations, and what became of long ones.
pub fn tell_of_lessons(path: &Path, conversations: usize, cut: LessonsCut, seq_len: usize) {
    let LessonsCut { shortened, dropped, .. } = cut;
    let (path, count) = (path.display(), number_of(conversations, "conversation"));
    note!("{path}: {count}, of which only what the assistant says counts");
    if shortened > 0 {
        let rows = number_of(shortened, "row");
        note!("{path}: {rows} cut at {seq_len} tokens, with more of the assistant after that");
    }
    if dropped > 0 {
        let rows = number_of(dropped, "row");
        note!("{path}: {rows} left out, with nothing of the assistant in them");
    }
}

/// How conversations become text that a model learns from or is measured on: in the same way on every day.
fn options_to_learn() -> ChatOptions {
    ChatOptions { fixed_date: true, ..ChatOptions::default() }
}

/// Templates may take a while, for many conversations.
fn check_interrupted() -> Result<(), Interrupted> {
    if must_stop() { Err(Interrupted) } else { Ok(()) }
}

fn place_in(path: &Path, line: usize) -> String {
    format!("{}: line {line}", path.display())
}

//! Rules made ready to run: exceptions applied, jumps resolved, and for each value a look at which patterns could match at all.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use super::{
    actions::{Actions, ids},
    exception::Exception,
    filter::Filter,
    operator::Unfit,
    pattern,
    rule::{self, Defaults, Phase, Rule, Skip, Verdict},
    source::{self, Directive},
    transform::Transform,
    variable::Targets,
};

/// All rules of a policy.
#[derive(Debug)]
pub(super) struct RuleSet {
    header: Vec<Ready>,
    body: Vec<Ready>,
    /// Each list of transformations that rules ask for.
    pub(super) pipelines: Vec<Box<[Transform]>>,
    /// For each of them, what its patterns need.
    pub(super) filters: Vec<Filter>,
    /// Rules that ask for what is not done here, with the reason.
    pub(super) left_out: Vec<String>,
}

/// A rule, and what was found out about it.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) rule: Rule,
    /// Where it goes on behind it if it holds.
    pub(super) jump: Option<usize>,
    /// Of each link, which list of transformations it has.
    pub(super) pipelines: Box<[usize]>,
    /// Where its pattern stands among those that need a text.
    pub(super) slot: Option<usize>,
}

impl RuleSet {
    /// The rules of a phase, in their order.
    pub(super) fn phase(&self, phase: Phase) -> &[Ready] {
        match phase {
            Phase::Header => &self.header,
            Phase::Body => &self.body,
            Phase::Later => &[],
        }
    }

    /// Has every pattern run over every value; how many need not have.
    #[cfg(test)]
    pub(super) fn without_filters(&mut self) -> usize {
        let ready = self.header.iter_mut().chain(&mut self.body);
        ready.filter_map(|ready| ready.slot.take()).count()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.header.len() + self.body.len()
    }

    /// Reads a text, and then files.
    pub(super) fn read(text: &str, files: &[PathBuf]) -> Result<Self, String> {
        let mut directives = Vec::new();
        source::lines(text, &Arc::from("rules"), &mut directives)?;
        for pattern in files {
            let paths =
                glob::glob(&pattern.to_string_lossy()).map_err(|error| format!("{}: {error}", pattern.display()))?;
            let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
            paths.sort();
            if paths.is_empty() {
                return Err(format!("{}: there is no such file", pattern.display()));
            }
            paths.iter().try_for_each(|path| source::file(path, &mut directives))?;
        }
        let mut draft = Draft::default();
        directives.iter().try_for_each(|directive| draft.take(directive))?;
        draft.finish()
    }
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Draft {
    rules: Vec<Rule>,
    /// Names of places, with the number of rules before them.
    markers: Vec<(String, usize)>,
    defaults: HashMap<Phase, Defaults>,
    exceptions: Vec<Exception>,
    left_out: Vec<String>,
    open: Open,
}

/// Whether the next rule belongs to the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Open {
    #[default]
    No,
    Chain,
    /// To one that is left out.
    Lost,
}

/// Directives about what is done elsewhere in the gateway, or not at all.
const OVERLOOKED: &[&str] = &[
    "SecArgumentSeparator",
    "SecArgumentsLimit",
    "SecAuditEngine",
    "SecAuditLog",
    "SecAuditLogDirMode",
    "SecAuditLogFormat",
    "SecAuditLogParts",
    "SecAuditLogRelevantStatus",
    "SecAuditLogStorageDir",
    "SecAuditLogType",
    "SecCollectionTimeout",
    "SecComponentSignature",
    "SecConnEngine",
    "SecCookieFormat",
    "SecDataDir",
    "SecDebugLog",
    "SecDebugLogLevel",
    "SecPcreMatchLimit",
    "SecPcreMatchLimitRecursion",
    "SecRequestBodyAccess",
    "SecRequestBodyInMemoryLimit",
    "SecRequestBodyJsonDepthLimit",
    "SecRequestBodyLimit",
    "SecRequestBodyLimitAction",
    "SecRequestBodyNoFilesLimit",
    "SecResponseBodyAccess",
    "SecResponseBodyLimit",
    "SecResponseBodyLimitAction",
    "SecResponseBodyMimeType",
    "SecResponseBodyMimeTypesClear",
    "SecSensorId",
    "SecServerSignature",
    "SecStatusEngine",
    "SecTmpDir",
    "SecTmpSaveUploadedFiles",
    "SecUnicodeMapFile",
    "SecUploadDir",
    "SecUploadFileLimit",
    "SecUploadFileMode",
    "SecUploadKeepFiles",
    "SecWebAppId",
    "SecXmlExternalEntity",
];

impl Draft {
    fn take(&mut self, directive: &Directive) -> Result<(), String> {
        let place = &directive.place;
        let words = directive.words.as_slice();
        let wrong = |why: String| place.says(why);
        match (directive.name.to_ascii_lowercase().as_str(), words) {
            ("secrule" | "secaction", _) => self.rule(directive)?,
            ("secmarker", [name]) => {
                let name = name.trim_matches('\'').to_owned();
                self.markers.push((name, self.rules.len()));
            }
            ("secdefaultaction", [actions]) => self.set_default(actions, directive)?,
            ("secruleengine", [mode]) if mode.eq_ignore_ascii_case("On") => {}
            ("secruleengine", _) => {
                return Err(wrong("rules that only count are those of a policy with `mode: shadow`".into()));
            }
            ("secruleremovebyid", words) => {
                for word in words.iter().flat_map(|word| word.split([' ', ','])).filter(|word| !word.is_empty()) {
                    self.exceptions.push(Exception::RemoveIds(ids(word).map_err(wrong)?));
                }
            }
            ("secruleremovebytag", [tag]) => self.exceptions.push(Exception::RemoveTag(tag.clone())),
            ("secruleupdatetargetbyid", [which, targets]) => {
                let targets = Targets::parse(targets).map_err(wrong)?;
                self.exceptions.push(Exception::TargetsById(ids(which).map_err(wrong)?, targets));
            }
            ("secruleupdatetargetbytag", [tag, targets]) => {
                let targets = Targets::parse(targets).map_err(wrong)?;
                self.exceptions.push(Exception::TargetsByTag(tag.clone(), targets));
            }
            (name, _) if OVERLOOKED.iter().any(|known| known.eq_ignore_ascii_case(name)) => {}
            _ => return Err(wrong(format!("`{}` is no directive here, or lacks what it needs", directive.name))),
        }
        Ok(())
    }

    fn set_default(&mut self, actions: &str, directive: &Directive) -> Result<(), String> {
        let actions = Actions::parse(actions, &directive.place).map_err(reason)?;
        let phase = actions.phase.ok_or_else(|| directive.place.says("`SecDefaultAction` is for one phase"))?;
        let defaults = Defaults {
            refuses: actions.verdict == Some(Verdict::Refuse),
            log: actions.log.unwrap_or(true),
            transforms: actions.transforms.into_iter().flatten().collect(),
        };
        self.defaults.insert(phase, defaults);
        Ok(())
    }

    fn rule(&mut self, directive: &Directive) -> Result<(), String> {
        let open = std::mem::take(&mut self.open);
        let text = directive.words.last().map(String::as_str).unwrap_or_default();
        let actions = Actions::parse(text, &directive.place).unwrap_or_default();
        let lost = if actions.chained { Open::Lost } else { Open::No };
        if open == Open::Lost || (open == Open::No && actions.phase == Some(Phase::Later)) {
            self.open = lost;
            return Ok(());
        }
        let defaults = |phase| self.defaults.get(&phase).cloned().unwrap_or_default();
        let read = match rule::read(directive, open != Open::No, &defaults) {
            Ok(read) => read,
            Err(Unfit::Wrong(why)) => return Err(why),
            Err(Unfit::Unsupported(why)) => {
                let head = if open == Open::Chain { self.rules.pop() } else { None };
                let head = head.map(|rule| format!("rule {}: ", rule.id)).unwrap_or_default();
                self.left_out.push(head + &why);
                self.open = lost;
                return Ok(());
            }
        };
        let chained = read.chained;
        match (open, self.rules.last_mut()) {
            (Open::Chain, Some(head)) => head.links.extend(read.rule.links),
            (Open::Chain | Open::No | Open::Lost, _) => self.rules.push(read.rule),
        }
        self.open = if chained { Open::Chain } else { Open::No };
        Ok(())
    }

    fn finish(mut self) -> Result<RuleSet, String> {
        if self.open == Open::Chain
            && let Some(last) = self.rules.last()
        {
            return Err(last.place.says("nothing follows that could be chained to this rule"));
        }
        self.unique()?;
        let exceptions = std::mem::take(&mut self.exceptions);
        for rule in &mut self.rules {
            for exception in &exceptions {
                exception.amend(rule);
            }
        }
        let kept: Vec<bool> = self.rules.iter().map(|rule| !exceptions.iter().any(|one| one.removes(rule))).collect();
        let mut pipelines = Pipelines::default();
        let phase = |rules: &[Rule], phase| {
            rules.iter().zip(&kept).map(|(rule, kept)| *kept && rule.phase == phase).collect::<Vec<bool>>()
        };
        let (header, body) = (phase(&self.rules, Phase::Header), phase(&self.rules, Phase::Body));
        let jumps = self.jumps([&header, &body])?;
        let mut set = RuleSet {
            header: Vec::new(),
            body: Vec::new(),
            pipelines: Vec::new(),
            filters: Vec::new(),
            left_out: self.left_out,
        };
        for (((rule, jump), in_header), in_body) in self.rules.into_iter().zip(jumps).zip(header).zip(body) {
            if in_header {
                set.header.push(pipelines.ready(rule, jump));
            } else if in_body {
                set.body.push(pipelines.ready(rule, jump));
            }
        }
        set.filters = pipelines.texts.into_iter().map(Filter::new).collect::<Result<_, _>>()?;
        set.pipelines = pipelines.known;
        Ok(set)
    }

    fn unique(&self) -> Result<(), String> {
        let mut known = HashMap::new();
        for rule in &self.rules {
            if let Some(first) = known.insert(rule.id, &rule.place) {
                return Err(rule.place.says(format_args!("rule {} is there already, at {first}", rule.id)));
            }
        }
        Ok(())
    }

    /// Where each rule goes on, counted in the rules of its phase that are left.
    fn jumps(&self, phases: [&[bool]; 2]) -> Result<Vec<Option<usize>>, String> {
        let before = |phase: &[bool], at: usize| phase.iter().take(at).filter(|is_in| **is_in).count();
        let mut jumps = Vec::with_capacity(self.rules.len());
        for (at, rule) in self.rules.iter().enumerate() {
            let phase = phases.iter().find(|phase| phase.get(at).copied().unwrap_or_default());
            jumps.push(match (&rule.skip, phase) {
                (None, _) | (_, None) => None,
                (Some(Skip::Rules(count)), Some(phase)) => Some(before(phase, at) + 1 + count),
                (Some(Skip::To(name)), Some(phase)) => Some(before(phase, self.target(name, at, rule)?)),
            });
        }
        Ok(jumps)
    }

    /// How many rules stand before the place of this name, which comes later.
    fn target(&self, name: &str, at: usize, rule: &Rule) -> Result<usize, String> {
        let marker = self.markers.iter().find(|(known, place)| known == name && *place > at);
        let behind_rule = || {
            let id: u32 = name.parse().ok()?;
            self.rules.iter().position(|rule| rule.id == id).filter(|place| *place > at).map(|place| place + 1)
        };
        let target = marker.map(|(_, place)| *place).or_else(behind_rule);
        target.ok_or_else(|| rule.place.says(format_args!("behind this there is no `SecMarker {name}`")))
    }
}

fn reason(unfit: Unfit) -> String {
    match unfit {
        Unfit::Wrong(why) | Unfit::Unsupported(why) => why,
    }
}

/// Lists of transformations, each once, and what the patterns behind them need.
#[derive(Debug, Default)]
struct Pipelines {
    known: Vec<Box<[Transform]>>,
    texts: Vec<Vec<Vec<Vec<u8>>>>,
}

impl Pipelines {
    fn ready(&mut self, rule: Rule, jump: Option<usize>) -> Ready {
        let pipelines: Box<[usize]> = rule.links.iter().map(|link| self.number(&link.transforms)).collect();
        let slot = rule.links.first().zip(pipelines.first()).and_then(|(link, at)| {
            let plain = !link.inverted && !link.each_step;
            let texts = link.pattern.as_deref().filter(|_| plain).and_then(pattern::required)?;
            let all = self.texts.get_mut(*at)?;
            all.push(texts);
            Some(all.len() - 1)
        });
        Ready { rule, jump, pipelines, slot }
    }

    fn number(&mut self, transforms: &[Transform]) -> usize {
        self.known.iter().position(|known| **known == *transforms).unwrap_or_else(|| {
            self.known.push(transforms.into());
            self.texts.push(Vec::new());
            self.known.len() - 1
        })
    }
}

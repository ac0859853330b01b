//! The last part of a rule: `id:1,phase:2,deny,t:lowercase,setvar:'tx.score=+5'`.

use std::ops::RangeInclusive;

use super::{
    exception::Exception,
    operator::Unfit,
    rule::{Change, Control, Phase, Skip, Verdict},
    source::Spot,
    template::Template,
    transform::Transform,
    variable::Targets,
};

/// What a list of actions says.
#[derive(Debug, Default)]
pub(super) struct Actions {
    pub(super) id: Option<u32>,
    pub(super) phase: Option<Phase>,
    pub(super) verdict: Option<Verdict>,
    pub(super) skip: Option<Skip>,
    pub(super) tags: Vec<String>,
    pub(super) log: Option<bool>,
    /// In their order; `t:none` is nothing.
    pub(super) transforms: Vec<Option<Transform>>,
    pub(super) each_step: bool,
    pub(super) groups: bool,
    pub(super) chained: bool,
    pub(super) changes: Vec<Change>,
}

impl Actions {
    pub(super) fn parse(text: &str, place: &Spot) -> Result<Self, Unfit> {
        let mut actions = Self::default();
        for word in split(text) {
            let (name, value) = word.split_once(':').map_or((word, ""), |(name, value)| (name, value));
            let value = value.trim();
            let value = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value);
            let value = value.replace("\\'", "'");
            let name = name.trim().to_ascii_lowercase();
            actions.take(&name, &value).map_err(|why| Unfit::Wrong(place.says(why)))?;
        }
        Ok(actions)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "id" => self.id = Some(value.parse().map_err(|_error| format!("`{value}` is no number of a rule"))?),
            "phase" => self.phase = Some(phase(value)?),
            "deny" | "drop" | "redirect" => self.verdict = Some(Verdict::Refuse),
            "pass" => self.verdict = Some(Verdict::Pass),
            "block" => self.verdict = Some(Verdict::Block),
            "allow" if value == "phase" => self.verdict = Some(Verdict::AllowPhase),
            "allow" => self.verdict = Some(Verdict::Allow),
            "proxy" => return Err("`proxy` is what a route's `upstream` is for".into()),
            "skip" => {
                let count = value.parse().map_err(|_error| format!("`{value}` is no number of rules"))?;
                self.skip = Some(Skip::Rules(count));
            }
            "skipafter" => self.skip = Some(Skip::To(value.to_owned())),
            "tag" => self.tags.push(value.to_owned()),
            "log" => self.log = Some(true),
            "nolog" => self.log = Some(false),
            "t" => self.transforms.push(transform(value)?),
            "multimatch" => self.each_step = true,
            "capture" => self.groups = true,
            "chain" => self.chained = true,
            "setvar" => self.changes.extend(set(value)),
            "ctl" => self.changes.extend(control(value)?.map(Change::Control)),
            // What concerns ModSecurity's own log, its collections, and its answers.
            "msg"
            | "logdata"
            | "severity"
            | "ver"
            | "rev"
            | "maturity"
            | "accuracy"
            | "auditlog"
            | "noauditlog"
            | "status"
            | "expirevar"
            | "deprecatevar"
            | "initcol"
            | "setuid"
            | "setsid"
            | "setrsc"
            | "xmlns"
            | "sanitisearg"
            | "sanitisematched"
            | "sanitisematchedbytes"
            | "sanitiserequestheader"
            | "" => {}
            other => return Err(format!("there is no action `{other}` here")),
        }
        Ok(())
    }
}

/// At each comma that is not within `'...'`.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut inside, mut escaped) = (Vec::new(), 0, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '\'' if !escaped => inside = !inside,
            ',' if !inside => {
                parts.push(text.get(start..at).unwrap_or_default().trim());
                start = at + 1;
            }
            _ => {}
        }
        escaped = letter == '\\' && !escaped;
    }
    parts.push(text.get(start..).unwrap_or_default().trim());
    parts
}

fn phase(value: &str) -> Result<Phase, String> {
    match value.to_ascii_lowercase().as_str() {
        "1" => Ok(Phase::Header),
        "2" | "request" => Ok(Phase::Body),
        "3" | "4" | "5" | "response" | "logging" => Ok(Phase::Later),
        _ => Err(format!("there is no phase `{value}`")),
    }
}

fn transform(value: &str) -> Result<Option<Transform>, String> {
    if value.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    Transform::named(value).map(Some).ok_or_else(|| format!("there is no transformation `{value}` here"))
}

/// `tx.name=value`, `tx.name=+value`, `!tx.name`, `tx.name`. What is kept beyond a request (`ip.`, `session.`) is not: for that there are limits.
fn set(text: &str) -> Option<Change> {
    let of_tx = |text: &str| {
        let (collection, name) = text.split_once('.')?;
        collection.trim().eq_ignore_ascii_case("tx").then(|| Template::parse(name.trim()))
    };
    if let Some(name) = text.strip_prefix('!') {
        return Some(Change::Forget { name: of_tx(name)? });
    }
    let (name, value) = text.split_once('=').unwrap_or((text, "1"));
    let name = of_tx(name)?;
    let signed = value.strip_prefix('+').map(|rest| (1, rest)).or_else(|| Some((-1, value.strip_prefix('-')?)));
    Some(match signed {
        Some((sign, value)) => Change::Add { name, value: Template::parse(value), sign },
        None => Change::Set { name, value: Template::parse(value) },
    })
}

/// `ruleRemoveTargetById=942100;ARGS:q`; nothing where it is about ModSecurity's own logs.
fn control(text: &str) -> Result<Option<Control>, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let with_targets = || -> Result<(&str, Targets), String> {
        let (which, targets) = value.split_once(';').ok_or_else(|| format!("`{text}` names no target"))?;
        Ok((which.trim(), Targets::parse(targets)?))
    };
    Ok(Some(match name.trim().to_ascii_lowercase().as_str() {
        "ruleengine" => match value.to_ascii_lowercase().as_str() {
            "off" => Control::Off,
            "detectiononly" => Control::DetectOnly,
            _ => return Ok(None),
        },
        "ruleremovebyid" => Control::Except(Exception::RemoveIds(ids(value)?)),
        "ruleremovebytag" => Control::Except(Exception::RemoveTag(value.to_owned())),
        "ruleremovetargetbyid" => {
            let (which, targets) = with_targets()?;
            Control::Except(Exception::TargetsById(ids(which)?, targets))
        }
        "ruleremovetargetbytag" => {
            let (tag, targets) = with_targets()?;
            Control::Except(Exception::TargetsByTag(tag.to_owned(), targets))
        }
        "requestbodyprocessor" => Control::Processor(value.to_ascii_uppercase()),
        "forcerequestbodyvariable" => Control::KeepBody,
        "auditengine" | "auditlogparts" | "debugloglevel" | "responsebodyaccess" | "responsebodylimit" => {
            return Ok(None);
        }
        other => return Err(format!("there is no `ctl:{other}` here")),
    }))
}

/// `942100` or `942100-942999`
pub(super) fn ids(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let read = |text: &str| text.trim().parse::<u32>().map_err(|_error| format!("`{text}` is no number of a rule"));
    Ok(read(first)?..=read(last)?)
}

//! Which profiles run, and for which requests.

use super::document::{Fault, Node};
use super::plugin_types::{DeciderPart, HandlerPart, Part};
use super::{Plugin, Reference, every_reference, references};
use crate::profiles::Decider;

/// The profiles that run.
pub(super) struct Chosen<'p, 'a> {
    /// The one that requests go to.
    pub(super) first: Profile<'p, 'a>,
    /// The one for prefill on other endpoints.
    pub(super) prefill: Option<(Profile<'p, 'a>, Decider)>,
    /// Port that requests are sent to, where a sidecar there hands them to the endpoint.
    pub(super) primary_port: Option<u16>,
}

/// A profile with the plugins that it names.
pub(super) struct Profile<'p, 'a> {
    pub(super) name: &'a str,
    pub(super) references: Vec<Reference<'p, 'a>>,
}

/// Reads the profile handler and the profiles that it runs.
pub(super) fn chosen<'p, 'a>(
    root: &Node<'a>,
    plugins: &'p [Plugin<'a>],
    notes: &mut Vec<String>,
) -> Result<Chosen<'p, 'a>, Fault> {
    let mut handlers = plugins.iter().filter_map(|plugin| Some((plugin, plugin.part.handler()?)));
    let handler = handlers.next();
    if let Some((second, _)) = handlers.next() {
        return Err(second.node.fault(&format!("only one profile handler can run: `{}`", second.name)));
    }
    let profiles = root.list("schedulingProfiles")?;
    for profile in &profiles {
        profile.only(&["name", "plugins"])?;
        profile.required("name")?;
    }
    match handler {
        Some((handler, HandlerPart::Disaggregated)) => {
            let stages = Stages::read(handler, plugins)?;
            disaggregated(handler, &stages, &profiles, plugins, notes)
        }
        Some((handler, HandlerPart::OldDisaggregated)) => {
            let stages = Stages::read_old(handler, plugins, notes)?;
            disaggregated(handler, &stages, &profiles, plugins, notes)
        }
        Some((handler, HandlerPart::DataParallel)) => {
            let primary_port = primary_port(handler.parameters.as_ref(), &["primaryPort", "targetPort"])?;
            let primary_port = Some(primary_port.unwrap_or(8000));
            Ok(Chosen { primary_port, ..single(&profiles, plugins)? })
        }
        Some((handler, HandlerPart::Single)) => {
            handler.parameters.as_ref().map_or(Ok(()), |parameters| parameters.only(&[]))?;
            single(&profiles, plugins)
        }
        None => single(&profiles, plugins),
    }
}

fn single<'p, 'a>(profiles: &[Node<'a>], plugins: &'p [Plugin<'a>]) -> Result<Chosen<'p, 'a>, Fault> {
    let first = match profiles {
        // Without profiles all that could be in one is.
        [] => Profile { name: "default", references: every_reference(plugins) },
        [profile] => Profile::read(profile, plugins)?,
        [_, second, ..] => {
            return Err(second.fault(&format!(
                "only one profile can run without a handler that chooses among them: `{}`",
                second.required("name")?
            )));
        }
    };
    Ok(Chosen { first, prefill: None, primary_port: None })
}

/// What a disaggregating handler is configured with.
struct Stages<'a> {
    decode: &'a str,
    prefill: &'a str,
    /// When the prefill runs; `None` for never.
    decider: Option<Decider>,
    primary_port: Option<u16>,
}

impl<'a> Stages<'a> {
    fn read(handler: &Plugin<'a>, plugins: &[Plugin<'a>]) -> Result<Self, Fault> {
        let mut stages = Self { decode: "decode", prefill: "prefill", decider: None, primary_port: None };
        let Some(parameters) = &handler.parameters else { return Ok(stages) };
        parameters.only(&[
            "profiles",
            "deciders",
            "decodeProfile",
            "prefillProfile",
            "encodeProfile",
            "prefillDeciderPluginName",
            "encodeDeciderPluginName",
            "deciderPluginName",
        ])?;
        for section in ["profiles", "deciders"] {
            parameters.get(section).map_or(Ok(()), |names| names.only(&["decode", "prefill", "encode"]))?;
        }
        let named = |section: &str, stage: &str, old: &[&str]| {
            let current = parameters.get(section).and_then(|names| names.get(stage));
            current.or_else(|| old.iter().find_map(|old| parameters.get(old)))
        };
        if let Some(name) = named("profiles", "decode", &["decodeProfile"]) {
            stages.decode = name.text()?;
        }
        if let Some(name) = named("profiles", "prefill", &["prefillProfile"]) {
            stages.prefill = name.text()?;
        }
        if let Some(name) = named("deciders", "encode", &["encodeDeciderPluginName"])
            && decider(&name, plugins)?.is_some()
        {
            return Err(name.fault(NO_ENCODING));
        }
        if let Some(name) = named("deciders", "prefill", &["prefillDeciderPluginName", "deciderPluginName"]) {
            stages.decider = decider(&name, plugins)?;
        }
        Ok(stages)
    }

    /// The handler of older releases, which has the threshold of its decider itself in the oldest ones.
    fn read_old(
        handler: &Plugin<'a>,
        plugins: &[Plugin<'a>],
        notes: &mut Vec<String>,
    ) -> Result<Self, Fault> {
        const DEFAULT_DECIDER: &str = "prefix-based-pd-decider";
        let mut stages =
            Self { decode: "decode", prefill: "prefill", decider: Some(Decider::Always), primary_port: None };
        let default = plugins.iter().find(|plugin| plugin.name == DEFAULT_DECIDER);
        if let Some(name) = default.and_then(|plugin| plugin.node.get("name").or(plugin.node.get("type"))) {
            stages.decider = decider(&name, plugins)?;
        }
        let Some(parameters) = &handler.parameters else { return Ok(stages) };
        const UNUSED: [&str; 5] =
            ["hashBlockSize", "prefixPluginType", "prefixPluginName", "prefixScorerRef", "primaryPort"];
        const KEYS: [&str; 4] = ["decodeProfile", "prefillProfile", "deciderPluginName", "threshold"];
        parameters.only(&[&KEYS[..], &UNUSED[..]].concat())?;
        if let Some(name) = parameters.get("decodeProfile") {
            stages.decode = name.text()?;
        }
        if let Some(name) = parameters.get("prefillProfile") {
            stages.prefill = name.text()?;
        }
        if let Some(name) = parameters.get("deciderPluginName") {
            stages.decider = decider(&name, plugins)?;
        } else if let Some(threshold) = parameters.get("threshold") {
            let characters = threshold.count()?;
            if characters > 0 {
                let tokens = u32::try_from(characters.div_ceil(4)).unwrap_or(u32::MAX);
                notes.push(format!("`threshold` of {characters} characters is one of {tokens} tokens"));
                stages.decider = Some(Decider::UncachedTokens(tokens));
            }
        }
        stages.primary_port = primary_port(Some(parameters), &[&KEYS[..], &UNUSED[..]].concat())?;
        Ok(stages)
    }
}

const NO_ENCODING: &str = "this version does not encode images on other endpoints; hint: leave this decider out, the endpoint that \
                           the request goes to then encodes";

fn disaggregated<'p, 'a>(
    handler: &Plugin<'a>,
    stages: &Stages<'a>,
    profiles: &[Node<'a>],
    plugins: &'p [Plugin<'a>],
    notes: &mut Vec<String>,
) -> Result<Chosen<'p, 'a>, Fault> {
    let named = |name: &str| {
        profiles.iter().find(|profile| profile.required("name").is_ok_and(|found| found == name))
    };
    let Some(decode) = named(stages.decode) else {
        let message = format!("there is no profile for decode of this name: `{}`", stages.decode);
        return Err(handler.node.fault(&message));
    };
    let prefill = match (stages.decider, named(stages.prefill)) {
        (None, _) => {
            notes.push(format!(
                "only the profile `{}` runs: no decider asks for prefill elsewhere",
                stages.decode
            ));
            None
        }
        (Some(decider), Some(prefill)) => Some((Profile::read(prefill, plugins)?, decider)),
        (Some(_), None) => {
            let message = format!("there is no profile for prefill of this name: `{}`", stages.prefill);
            return Err(handler.node.fault(&message));
        }
    };
    for plugin in plugins.iter().filter(|plugin| plugin.part == Part::PrefillerHeader) {
        check_header(plugin, stages.prefill)?;
    }
    for profile in profiles {
        let name = profile.required("name")?;
        if name != stages.decode && name != stages.prefill {
            notes.push(format!("the profile `{name}` never runs: no decider asks for it"));
        }
    }
    Ok(Chosen { first: Profile::read(decode, plugins)?, prefill, primary_port: stages.primary_port })
}

/// The plugin that writes the header, which is written here whenever another endpoint does the prefill.
fn check_header(plugin: &Plugin<'_>, prefill: &str) -> Result<(), Fault> {
    let Some(parameters) = &plugin.parameters else { return Ok(()) };
    parameters.only(&["prefillProfile", "encodeProfile"])?;
    match parameters.get("prefillProfile") {
        Some(name) if name.text()? != prefill => {
            Err(name.fault(&format!("must be the profile for prefill, `{prefill}`")))
        }
        _ => Ok(()),
    }
}

/// What a decider decides; `None` if it never asks for the other profile.
fn decider(name: &Node<'_>, plugins: &[Plugin<'_>]) -> Result<Option<Decider>, Fault> {
    let wanted = name.text()?;
    let decider = plugins.iter().find(|plugin| plugin.name == wanted);
    let Some(Plugin { part: Part::Decider(part), parameters, .. }) = decider else {
        return Err(name.fault("there is no decider of this name"));
    };
    let threshold = |key: &str| {
        let Some(parameters) = parameters else { return Ok(None) };
        parameters.only(&[key])?;
        let tokens = parameters.get(key).map(|tokens| tokens.count()).transpose()?.unwrap_or(0);
        Ok(Some(u32::try_from(tokens).unwrap_or(u32::MAX)).filter(|tokens| *tokens > 0))
    };
    match part {
        DeciderPart::Always => Ok(Some(Decider::Always)),
        DeciderPart::ByUncachedTokens => Ok(threshold("nonCachedTokens")?.map(Decider::UncachedTokens)),
        DeciderPart::ByPromptTokens => Ok(threshold("promptTokens")?.map(Decider::PromptTokens)),
    }
}

fn primary_port(parameters: Option<&Node<'_>>, known: &[&str]) -> Result<Option<u16>, Fault> {
    let Some(parameters) = parameters else { return Ok(None) };
    parameters.only(known)?;
    match parameters.get("primaryPort").or(parameters.get("targetPort")) {
        Some(port) => {
            let number = port.whole(0, 65_535)? as u16;
            Ok((number > 0).then_some(number))
        }
        None => Ok(None),
    }
}

impl<'p, 'a> Profile<'p, 'a> {
    fn read(profile: &Node<'a>, plugins: &'p [Plugin<'a>]) -> Result<Self, Fault> {
        Ok(Self { name: profile.required("name")?, references: references(profile, plugins)? })
    }
}

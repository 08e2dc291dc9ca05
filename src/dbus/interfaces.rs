//! The methods of each interface with their signatures, and the XML that describes them.
//!
//! The table decides what is a method and what it takes, before its handler sees a call. The XML is the documentation
//! that is installed, and what introspection answers with; a test compares both with what the server really does.

use super::tree::Object;

/// A method: its name, what it takes, what it gives.
pub(super) type Method = (&'static str, &'static str, &'static str);

const MANAGER: &[Method] = &[
    ("StartApp", "sa{sv}", "o"),
    ("Restart", "asa{sv}", "o"),
    ("Reload", "asa{sv}", "o"),
    ("Stop", "as", "o"),
    ("Delete", "as", "o"),
    ("Scale", "ss", "o"),
    ("Reset", "as", ""),
    ("SendSignal", "ass", ""),
    ("SendLine", "us", ""),
    ("SendMessage", "us", ""),
    ("Trigger", "asss", "a(us)"),
    ("Resolve", "as", "au"),
    ("ListProcesses", "", "s"),
    ("GetEnvironment", "u", "a{ss}"),
    ("GetSpec", "u", "s"),
    ("OpenLogs", "asa{sv}", "h"),
    ("FlushLogs", "as", ""),
    ("ReopenLogs", "", ""),
    ("Save", "b", "s"),
    ("ClearSaved", "", ""),
    ("Resurrect", "", "o"),
    ("Kill", "", "o"),
    ("Reexecute", "", ""),
    ("Report", "", "s"),
    ("GetHostMetrics", "", "s"),
    ("Ping", "", "s"),
];

const APP: &[Method] =
    &[("Stop", "", "o"), ("Restart", "", "o"), ("Reload", "", "o"), ("Delete", "", "o"), ("Scale", "s", "o")];

const PROCESS: &[Method] = &[
    ("Stop", "", "o"),
    ("Restart", "", "o"),
    ("Reload", "", "o"),
    ("Delete", "", "o"),
    ("SendSignal", "s", ""),
    ("GetEnvironment", "", "a{ss}"),
];

const JOB: &[Method] = &[("Wait", "", "ssas"), ("Cancel", "", "")];

/// The methods of an object's own interface.
pub(super) fn methods(object: Object) -> &'static [Method] {
    match object {
        Object::Manager => MANAGER,
        Object::App(_) => APP,
        Object::Process(_) => PROCESS,
        Object::Job(_) => JOB,
    }
}

/// The committed description of an object's own interface: the `<interface>` element.
pub(super) fn description(object: Object) -> &'static str {
    let document = match object {
        Object::Manager => include_str!("../../packaging/dbus/org.pm2rs1.Manager.xml"),
        Object::App(_) => include_str!("../../packaging/dbus/org.pm2rs1.App.xml"),
        Object::Process(_) => include_str!("../../packaging/dbus/org.pm2rs1.Process.xml"),
        Object::Job(_) => include_str!("../../packaging/dbus/org.pm2rs1.Job.xml"),
    };
    let from = document.find("  <interface ").unwrap_or_default();
    let to = document.rfind("</node>").unwrap_or(document.len());
    &document[from..to]
}

/// What every object has.
const STANDARD: &str = r#"  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg name="machine_uuid" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="xml_data" type="s" direction="out"/>
    </method>
  </interface>
"#;

/// What every object with properties has.
const PROPERTIES: &str = r#"  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="properties" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
"#;

/// What the manager has besides.
const OBJECT_MANAGER: &str = r#"  <interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects">
      <arg name="objects" type="a{oa{sa{sv}}}" direction="out"/>
    </method>
    <signal name="InterfacesAdded">
      <arg name="object_path" type="o"/>
      <arg name="interfaces_and_properties" type="a{sa{sv}}"/>
    </signal>
    <signal name="InterfacesRemoved">
      <arg name="object_path" type="o"/>
      <arg name="interfaces" type="as"/>
    </signal>
  </interface>
"#;

const DOCUMENT_TYPE: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
"#;

/// The answer to `Introspect`: of an object, or of a folder on the way to one.
pub(super) fn document(object: Option<Object>, children: &[String]) -> String {
    let mut xml = format!("{DOCUMENT_TYPE}<node>\n");
    if let Some(object) = object {
        xml.push_str(description(object));
        xml.push_str(PROPERTIES);
    }
    if object == Some(Object::Manager) {
        xml.push_str(OBJECT_MANAGER);
    }
    xml.push_str(STANDARD);
    for child in children {
        xml.push_str(&format!("  <node name=\"{child}\"/>\n"));
    }
    xml.push_str("</node>\n");
    xml
}

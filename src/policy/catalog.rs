//! The table of settings: the Android Management API's names and full values, and neutral names beside them.

use super::settings::{Setting, Shape, setting};

const QUALITIES: &[&str] = &[
    "BIOMETRIC_WEAK",
    "SOMETHING",
    "NUMERIC",
    "NUMERIC_COMPLEX",
    "ALPHABETIC",
    "ALPHANUMERIC",
    "COMPLEX",
    "COMPLEXITY_LOW",
    "COMPLEXITY_MEDIUM",
    "COMPLEXITY_HIGH",
];

/// A declaration; its ServerToken is the server's to make.
pub const DECLARATION: &[Setting] = &[
    setting("Type", Shape::Text(256), "Such as com.apple.configuration.passcode.settings"),
    setting("Identifier", Shape::Text(256), "Names it, in 64 bytes; another type under the same name is another declaration"),
    setting("Payload", Shape::Through, "As Apple documents the type"),
];

const APPLE: &[Setting] = &[
    setting("payloads", Shape::Payloads, "Payloads of the configuration profile that the device is declared"),
    setting("declarations", Shape::Declarations, "Declarations for the device"),
    setting("userDeclarations", Shape::Declarations, "Declarations for the users of a Mac or of a shared iPad"),
];

const PASSWORD: &[Setting] = &[
    setting("passwordScope", Shape::Word(&["SCOPE_DEVICE", "SCOPE_PROFILE"]), "What the password protects"),
    setting("passwordQuality", Shape::Word(QUALITIES), "How strong it must be"),
    setting("passwordMinimumLength", Shape::Number(0, 64), "Characters at least"),
    setting("passwordMinimumLetters", Shape::Number(0, 64), "Letters at least"),
    setting("passwordMinimumLowerCase", Shape::Number(0, 64), "Lower-case letters at least"),
    setting("passwordMinimumUpperCase", Shape::Number(0, 64), "Upper-case letters at least"),
    setting("passwordMinimumNonLetter", Shape::Number(0, 64), "Digits and symbols at least"),
    setting("passwordMinimumNumeric", Shape::Number(0, 64), "Digits at least"),
    setting("passwordMinimumSymbols", Shape::Number(0, 64), "Symbols at least"),
    setting("passwordHistoryLength", Shape::Number(0, 100), "Former passwords that may not come back"),
    setting("maximumFailedPasswordsForWipe", Shape::Number(0, 1000), "Wrong tries before the phone wipes itself; 0 for never"),
    setting("passwordExpirationTimeout", Shape::Seconds, "How long a password is good"),
    setting("requirePasswordUnlock", Shape::Word(&["USE_DEFAULT_DEVICE_TIMEOUT", "REQUIRE_EVERY_DAY"]), "How often it is asked for"),
    setting("unifiedLockSettings", Shape::Word(&["ALLOW_UNIFIED_WORK_AND_PERSONAL_LOCK", "REQUIRE_SEPARATE_WORK_LOCK"]), "One lock or two"),
];

const CROSS_PROFILE: &[Setting] = &[
    setting(
        "crossProfileCopyPaste",
        Shape::Word(&["COPY_FROM_WORK_TO_PERSONAL_DISALLOWED", "CROSS_PROFILE_COPY_PASTE_ALLOWED"]),
        "Copying text out of the work profile",
    ),
    setting(
        "showWorkContactsInPersonalProfile",
        Shape::Word(&[
            "SHOW_WORK_CONTACTS_IN_PERSONAL_PROFILE_DISALLOWED",
            "SHOW_WORK_CONTACTS_IN_PERSONAL_PROFILE_ALLOWED",
            "SHOW_WORK_CONTACTS_IN_PERSONAL_PROFILE_DISALLOWED_EXCEPT_SYSTEM",
        ]),
        "Work contacts in the personal profile",
    ),
    setting(
        "crossProfileDataSharing",
        Shape::Word(&[
            "CROSS_PROFILE_DATA_SHARING_DISALLOWED",
            "DATA_SHARING_FROM_WORK_TO_PERSONAL_DISALLOWED",
            "CROSS_PROFILE_DATA_SHARING_ALLOWED",
        ]),
        "Opening work data in personal apps",
    ),
];

/// Neutral texts; [`USER_FACING`] is how the Android Management API writes one.
const MESSAGES: &[Setting] = &[
    setting("shortSupportMessage", Shape::Text(200), "Shown where a setting is locked"),
    setting("longSupportMessage", Shape::Text(4096), "Shown on the device administrator's page"),
    setting("deviceOwnerLockScreenInfo", Shape::Text(200), "Shown on the lock screen"),
];

const USER_FACING: &[Setting] = &[
    setting("defaultMessage", Shape::Text(4096), "The text where no language fits better"),
    setting("localizedMessages", Shape::Map(&Shape::Text(4096), 100), "Texts by language, such as \"de-DE\""),
];

const GRANTS: &[&str] = &["PROMPT", "GRANT", "DENY"];

const PERMISSION: &[Setting] = &[
    setting("permission", Shape::Text(256), "The permission, such as android.permission.CAMERA"),
    setting("policy", Shape::Word(GRANTS), "Asked, given or denied"),
];

/// The fields of an app.
pub const APP: &[Setting] = &[
    setting("packageName", Shape::AppId, "The app on Android"),
    setting("bundleId", Shape::AppId, "The app on Apple devices"),
    setting(
        "installType",
        Shape::Word(&["PREINSTALLED", "FORCE_INSTALLED", "BLOCKED", "AVAILABLE", "REQUIRED_FOR_SETUP", "KIOSK", "CUSTOM"]),
        "How it comes to the phone, or that it may not",
    ),
    setting("managedConfiguration", Shape::Configuration, "What the app is told: its own keys and values"),
    setting("disabled", Shape::Bool, "Installed but not usable"),
    setting("minimumVersionCode", Shape::Number(0, i32::MAX as i64), "The oldest version that will do"),
    setting("defaultPermissionPolicy", Shape::Word(GRANTS), "What the app gets that asks for a permission"),
    setting("permissionGrants", Shape::List(&Shape::Object(PERMISSION), 100), "Single permissions of the app"),
    setting(
        "autoUpdateMode",
        Shape::Word(&["AUTO_UPDATE_DEFAULT", "AUTO_UPDATE_POSTPONED", "AUTO_UPDATE_HIGH_PRIORITY"]),
        "When new versions are installed",
    ),
    setting("delegatedScopes", Shape::List(&Shape::Text(64), 20), "Powers of the agent that the app shares"),
    setting(
        "userControlSettings",
        Shape::Word(&["USER_CONTROL_ALLOWED", "USER_CONTROL_DISALLOWED"]),
        "Whether people may stop it or clear its data",
    ),
    setting("installPriority", Shape::Number(0, 10_000), "Lower numbers are installed first"),
];

const PACKAGES: &[Setting] = &[setting("packageNames", Shape::List(&Shape::AppId, 500), "The packages that are allowed")];

const VPN: &[Setting] =
    &[setting("packageName", Shape::AppId, "The VPN's app"), setting("lockdownEnabled", Shape::Bool, "No network without the VPN")];

const PROXY: &[Setting] = &[
    setting("host", Shape::Text(256), "The proxy's host"),
    setting("port", Shape::Number(1, 65_535), "The proxy's port"),
    setting("excludedHosts", Shape::List(&Shape::Text(256), 100), "Hosts that are reached without it"),
    setting("pacUri", Shape::Text(2048), "Where its configuration lies"),
];

const DATE: &[Setting] = &[
    setting("year", Shape::Number(0, 9999), "0 for every year"),
    setting("month", Shape::Number(1, 12), "1 to 12"),
    setting("day", Shape::Number(1, 31), "1 to 31"),
];

const FREEZE: &[Setting] = &[
    setting("startDate", Shape::Object(DATE), "The first day without updates"),
    setting("endDate", Shape::Object(DATE), "The last day without updates"),
];

const UPDATE: &[Setting] = &[
    setting("type", Shape::Word(&["AUTOMATIC", "WINDOWED", "POSTPONE"]), "When updates are installed"),
    setting("startMinutes", Shape::Number(0, 1439), "The window's start in minutes after midnight"),
    setting("endMinutes", Shape::Number(0, 1439), "The window's end in minutes after midnight"),
    setting("freezePeriods", Shape::List(&Shape::Object(FREEZE), 20), "Days of the year without updates"),
];

const SSID: &[Setting] = &[setting("wifiSsid", Shape::Text(64), "The network's name")];

const SSIDS: &[Setting] = &[
    setting("wifiSsidPolicyType", Shape::Word(&["WIFI_SSID_DENYLIST", "WIFI_SSID_ALLOWLIST"]), "Whether the list allows or forbids"),
    setting("wifiSsids", Shape::List(&Shape::Object(SSID), 200), "Networks"),
];

const CONNECTIVITY: &[Setting] = &[
    setting(
        "usbDataAccess",
        Shape::Word(&["ALLOW_USB_DATA_TRANSFER", "DISALLOW_USB_FILE_TRANSFER", "DISALLOW_USB_DATA_TRANSFER"]),
        "What may go over USB",
    ),
    setting(
        "configureWifi",
        Shape::Word(&["ALLOW_CONFIGURING_WIFI", "DISALLOW_ADD_WIFI_CONFIG", "DISALLOW_CONFIGURING_WIFI"]),
        "Whether people may set up Wi-Fi",
    ),
    setting("wifiDirectSettings", Shape::Word(&["ALLOW_WIFI_DIRECT", "DISALLOW_WIFI_DIRECT"]), "Wi-Fi from phone to phone"),
    setting(
        "tetheringSettings",
        Shape::Word(&["ALLOW_ALL_TETHERING", "DISALLOW_WIFI_TETHERING", "DISALLOW_ALL_TETHERING"]),
        "Sharing the phone's network",
    ),
    setting("wifiSsidPolicy", Shape::Object(SSIDS), "Networks that may be joined"),
    setting(
        "bluetoothSharing",
        Shape::Word(&["BLUETOOTH_SHARING_ALLOWED", "BLUETOOTH_SHARING_DISALLOWED"]),
        "Sending files over Bluetooth",
    ),
];

const RADIO: &[Setting] = &[
    setting("wifiState", Shape::Word(&["WIFI_STATE_USER_CHOICE", "WIFI_ENABLED", "WIFI_DISABLED"]), "Wi-Fi on or off"),
    setting("airplaneModeState", Shape::Word(&["AIRPLANE_MODE_USER_CHOICE", "AIRPLANE_MODE_DISABLED"]), "Aeroplane mode"),
    setting(
        "cellularTwoGState",
        Shape::Word(&["CELLULAR_TWO_G_USER_CHOICE", "CELLULAR_TWO_G_DISABLED"]),
        "2G, which is easily listened to",
    ),
    setting("ultraWidebandState", Shape::Word(&["ULTRA_WIDEBAND_USER_CHOICE", "ULTRA_WIDEBAND_DISABLED"]), "Ultra-wideband"),
    setting(
        "minimumWifiSecurityLevel",
        Shape::Word(&[
            "OPEN_NETWORK_SECURITY",
            "PERSONAL_NETWORK_SECURITY",
            "ENTERPRISE_NETWORK_SECURITY",
            "ENTERPRISE_BIT192_NETWORK_SECURITY",
        ]),
        "The weakest Wi-Fi that may be joined",
    ),
];

const SECURITY: &[Setting] = &[
    setting(
        "untrustedAppsPolicy",
        Shape::Word(&["DISALLOW_INSTALL", "ALLOW_INSTALL_IN_PERSONAL_PROFILE_ONLY", "ALLOW_INSTALL_DEVICE_WIDE"]),
        "Apps from unknown sources",
    ),
    setting("googlePlayProtectVerifyApps", Shape::Word(&["VERIFY_APPS_ENFORCED", "VERIFY_APPS_USER_CHOICE"]), "Whether apps are scanned"),
    setting(
        "developerSettings",
        Shape::Word(&["DEVELOPER_SETTINGS_DISABLED", "DEVELOPER_SETTINGS_ALLOWED"]),
        "Developer options, safe boot, USB debugging",
    ),
    setting("commonCriteriaMode", Shape::Word(&["COMMON_CRITERIA_MODE_DISABLED", "COMMON_CRITERIA_MODE_ENABLED"]), "Common Criteria mode"),
    setting("mtePolicy", Shape::Word(&["MTE_USER_CHOICE", "MTE_ENFORCED", "MTE_DISABLED"]), "Memory tagging"),
];

const KIOSK: &[Setting] = &[
    setting("powerButtonActions", Shape::Word(&["POWER_BUTTON_AVAILABLE", "POWER_BUTTON_BLOCKED"]), "A long press of the power button"),
    setting("systemErrorWarnings", Shape::Word(&["ERROR_AND_WARNINGS_ENABLED", "ERROR_AND_WARNINGS_MUTED"]), "Dialogs about crashed apps"),
    setting(
        "systemNavigation",
        Shape::Word(&["NAVIGATION_ENABLED", "NAVIGATION_DISABLED", "HOME_BUTTON_ONLY"]),
        "Home and overview buttons",
    ),
    setting(
        "statusBar",
        Shape::Word(&["NOTIFICATIONS_AND_SYSTEM_INFO_ENABLED", "NOTIFICATIONS_AND_SYSTEM_INFO_DISABLED", "SYSTEM_INFO_ONLY"]),
        "What the status bar shows",
    ),
    setting("deviceSettings", Shape::Word(&["SETTINGS_ACCESS_ALLOWED", "SETTINGS_ACCESS_BLOCKED"]), "The Settings app"),
];

const REPORTING: &[Setting] = &[
    setting("applicationReportsEnabled", Shape::Bool, "Installed apps"),
    setting("deviceSettingsEnabled", Shape::Bool, "Security settings"),
    setting("softwareInfoEnabled", Shape::Bool, "System version and patch level"),
    setting("memoryInfoEnabled", Shape::Bool, "Memory and storage"),
    setting("networkInfoEnabled", Shape::Bool, "Network identities"),
    setting("displayInfoEnabled", Shape::Bool, "Displays"),
    setting("powerManagementEventsEnabled", Shape::Bool, "Power events"),
    setting("hardwareStatusEnabled", Shape::Bool, "Temperatures and usage"),
    setting("systemPropertiesEnabled", Shape::Bool, "System properties"),
    setting("commonCriteriaModeEnabled", Shape::Bool, "Common Criteria mode"),
];

const BLOCK: &[Setting] = &[
    setting("blockAfterDays", Shape::Number(0, 365), "Days until it is blocked; 0 for at once"),
    setting("blockScope", Shape::Word(&["BLOCK_SCOPE_WORK_PROFILE", "BLOCK_SCOPE_DEVICE"]), "What is blocked"),
];

const WIPE: &[Setting] = &[
    setting("wipeAfterDays", Shape::Number(1, 365), "Days until it is wiped"),
    setting("preserveFrp", Shape::Bool, "Factory reset protection stays"),
];

const RULE: &[Setting] = &[
    setting("settingName", Shape::Text(64), "The setting that is enforced"),
    setting("blockAction", Shape::Object(BLOCK), "When the device or profile is blocked"),
    setting("wipeAction", Shape::Object(WIPE), "When it is wiped"),
];

const PERSONAL: &[Setting] = &[
    setting("cameraDisabled", Shape::Bool, "No camera in the personal profile"),
    setting("screenCaptureDisabled", Shape::Bool, "No screenshots in the personal profile"),
    setting("maxDaysWithWorkOff", Shape::Number(0, 365), "Days for which the work profile may be off; 0 for any number"),
];

/// Every setting of a document.
pub const SETTINGS: &[Setting] = &[
    setting("applications", Shape::Applications, "Apps that are installed, allowed or blocked, with their configuration"),
    setting(
        "cameraAccess",
        Shape::Word(&["CAMERA_ACCESS_USER_CHOICE", "CAMERA_ACCESS_DISABLED", "CAMERA_ACCESS_ENFORCED"]),
        "Whether the camera may be used",
    ),
    setting("screenCaptureDisabled", Shape::Bool, "No screenshots and recordings"),
    setting("usbFileTransferDisabled", Shape::Bool, "No files over USB"),
    setting("printingPolicy", Shape::Word(&["PRINTING_DISALLOWED", "PRINTING_ALLOWED"]), "Whether apps may print"),
    setting("crossProfilePolicies", Shape::Object(CROSS_PROFILE), "What may cross between the work and the personal profile"),
    setting("passwordPolicies", Shape::List(&Shape::Object(PASSWORD), 4), "What the lock screen's password must be"),
    setting("messages", Shape::Object(MESSAGES), "What people read on the phone"),
    setting("apple", Shape::Object(APPLE), "Declarations for Apple devices, passed through"),
    setting("passwordRequirements", Shape::Object(PASSWORD), "One set of rules for the password; passwordPolicies says more"),
    setting("maximumTimeToLock", Shape::Millis, "Milliseconds without use until the screen locks"),
    setting(
        "microphoneAccess",
        Shape::Word(&["MICROPHONE_ACCESS_USER_CHOICE", "MICROPHONE_ACCESS_DISABLED", "MICROPHONE_ACCESS_ENFORCED"]),
        "Whether the microphone may be used",
    ),
    setting(
        "keyguardDisabledFeatures",
        Shape::List(
            &Shape::Word(&[
                "CAMERA",
                "NOTIFICATIONS",
                "UNREDACTED_NOTIFICATIONS",
                "TRUST_AGENTS",
                "DISABLE_FINGERPRINT",
                "DISABLE_REMOTE_INPUT",
                "FACE",
                "IRIS",
                "BIOMETRICS",
                "SHORTCUTS",
                "ALL_FEATURES",
            ]),
            11,
        ),
        "What the lock screen does not offer",
    ),
    setting("locationMode", Shape::Word(&["LOCATION_USER_CHOICE", "LOCATION_ENFORCED", "LOCATION_DISABLED"]), "Location on or off"),
    setting(
        "autoDateAndTimeZone",
        Shape::Word(&["AUTO_DATE_AND_TIME_ZONE_USER_CHOICE", "AUTO_DATE_AND_TIME_ZONE_ENFORCED"]),
        "Date and time zone from the network",
    ),
    setting("defaultPermissionPolicy", Shape::Word(GRANTS), "What apps get that ask for a permission"),
    setting("permissionGrants", Shape::List(&Shape::Object(PERMISSION), 100), "Single permissions of all apps"),
    setting("permittedInputMethods", Shape::Object(PACKAGES), "Keyboards that are allowed"),
    setting("permittedAccessibilityServices", Shape::Object(PACKAGES), "Accessibility services that are allowed"),
    setting("alwaysOnVpnPackage", Shape::Object(VPN), "A VPN that is always on"),
    setting("recommendedGlobalProxy", Shape::Object(PROXY), "The proxy that apps are told of"),
    setting("openNetworkConfiguration", Shape::Through, "Wi-Fi networks in the Open Network Configuration format"),
    setting(
        "assistContentPolicy",
        Shape::Word(&["ASSIST_CONTENT_DISALLOWED", "ASSIST_CONTENT_ALLOWED"]),
        "What assistants may read from the screen",
    ),
    setting("systemUpdate", Shape::Object(UPDATE), "When system updates are installed"),
    setting("deviceConnectivityManagement", Shape::Object(CONNECTIVITY), "USB, Wi-Fi, tethering, Bluetooth"),
    setting("deviceRadioState", Shape::Object(RADIO), "The phone's radios"),
    setting("advancedSecurityOverrides", Shape::Object(SECURITY), "Unknown sources, developer options and the like"),
    setting("personalUsagePolicies", Shape::Object(PERSONAL), "The personal side of a phone that belongs to the organisation"),
    setting("kioskCustomization", Shape::Object(KIOSK), "What people can do beside the kiosk's app"),
    setting("statusReportingSettings", Shape::Object(REPORTING), "What the phone reports"),
    setting("policyEnforcementRules", Shape::List(&Shape::Object(RULE), 100), "What happens where a setting is not obeyed"),
    setting("minimumApiLevel", Shape::Number(1, 1000), "The oldest Android that will do"),
    setting("stayOnPluggedModes", Shape::List(&Shape::Word(&["AC", "USB", "WIRELESS"]), 3), "Where the screen stays on while charging"),
    setting("frpAdminEmails", Shape::List(&Shape::Text(256), 20), "Accounts that may set up the phone after a reset"),
    setting("shortSupportMessage", Shape::Object(USER_FACING), "Shown where a setting is locked"),
    setting("longSupportMessage", Shape::Object(USER_FACING), "Shown on the device administrator's page"),
    setting("deviceOwnerLockScreenInfo", Shape::Object(USER_FACING), "Shown on the lock screen"),
    setting("adjustVolumeDisabled", Shape::Bool, "Nobody changes the volume"),
    setting("factoryResetDisabled", Shape::Bool, "No reset from Settings"),
    setting("installAppsDisabled", Shape::Bool, "Nobody installs apps"),
    setting("uninstallAppsDisabled", Shape::Bool, "Nobody removes apps"),
    setting("mountPhysicalMediaDisabled", Shape::Bool, "No memory cards and USB drives"),
    setting("modifyAccountsDisabled", Shape::Bool, "No adding and removing of accounts"),
    setting("addUserDisabled", Shape::Bool, "No new users of the phone"),
    setting("removeUserDisabled", Shape::Bool, "No removal of users of the phone"),
    setting("bluetoothDisabled", Shape::Bool, "No Bluetooth"),
    setting("bluetoothConfigDisabled", Shape::Bool, "No pairing"),
    setting("bluetoothContactSharingDisabled", Shape::Bool, "No contacts over Bluetooth"),
    setting("outgoingCallsDisabled", Shape::Bool, "No outgoing calls"),
    setting("smsDisabled", Shape::Bool, "No text messages"),
    setting("dataRoamingDisabled", Shape::Bool, "No mobile data abroad"),
    setting("mobileNetworksConfigDisabled", Shape::Bool, "No changes to mobile networks"),
    setting("cellBroadcastsConfigDisabled", Shape::Bool, "No changes to emergency alerts"),
    setting("networkResetDisabled", Shape::Bool, "No reset of network settings"),
    setting("vpnConfigDisabled", Shape::Bool, "No changes to VPNs"),
    setting("wifiConfigDisabled", Shape::Bool, "No changes to Wi-Fi; deviceConnectivityManagement.configureWifi says more"),
    setting("tetheringConfigDisabled", Shape::Bool, "No changes to tethering; deviceConnectivityManagement.tetheringSettings says more"),
    setting("credentialsConfigDisabled", Shape::Bool, "No certificates by hand"),
    setting("setWallpaperDisabled", Shape::Bool, "The wallpaper stays"),
    setting("setUserIconDisabled", Shape::Bool, "The user's picture stays"),
    setting("shareLocationDisabled", Shape::Bool, "No location for apps"),
    setting("outgoingBeamDisabled", Shape::Bool, "Nothing sent over NFC"),
    setting("funDisabled", Shape::Bool, "No easter eggs"),
    setting("createWindowsDisabled", Shape::Bool, "No windows over other apps"),
    setting("keyguardDisabled", Shape::Bool, "No lock screen"),
    setting("statusBarDisabled", Shape::Bool, "No status bar"),
    setting("safeBootDisabled", Shape::Bool, "No safe boot"),
    setting("debuggingFeaturesAllowed", Shape::Bool, "USB debugging may be switched on"),
    setting("cameraDisabled", Shape::Bool, "No camera; cameraAccess says more"),
    setting("unmuteMicrophoneDisabled", Shape::Bool, "The microphone stays mute; microphoneAccess says more"),
    setting("kioskCustomLauncherEnabled", Shape::Bool, "Kiosk apps in place of the home screen"),
];

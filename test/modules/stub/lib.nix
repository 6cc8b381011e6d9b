# A stand-in for the part of nixpkgs' lib that flake.nix and nix/*.nix use: options, modules, types. It is small, but it is strict: an option
# that isn't declared, a value of the wrong type and two values that contradict each other end the evaluation, with the name of the
# option. The names are nixpkgs' (its manual, "Module System"), the code is this project's own. Runs on Nix 2.3 to 2.34.
let
  inherit (builtins)
    all
    attrNames
    concatLists
    concatStringsSep
    elem
    filter
    foldl'
    genList
    hasAttr
    head
    isAttrs
    isFunction
    isList
    isPath
    isString
    length
    listToAttrs
    map
    sort
    toJSON
    ;

  unique = foldl' (seen: one: if elem one seen then seen else seen ++ [ one ]) [ ];
  concatMap = f: list: concatLists (map f list);
  dots = concatStringsSep ".";
  ofType = type: value: isAttrs value && value._type or null == type;

  # What a value is, for messages; never evaluates more of it than its type.
  show =
    value:
    if isString value || builtins.isInt value || builtins.isBool value || value == null then
      toJSON value
    else
      "a ${builtins.typeOf value}";

  # ---- what definitions are wrapped in

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOrder = order: content: {
    _type = "order";
    inherit order content;
  };
  plain = 100; # the priority of a definition without mkOverride; the lowest number wins
  optionDefault = 1500;

  # A set of definitions as a list of plain sets; conditions are not looked at, but moved to the leaves: they may depend on other options.
  pushDown =
    where: value:
    if ofType "merge" value then
      concatMap (pushDown where) value.contents
    else if ofType "if" value then
      map (builtins.mapAttrs (_: mkIf value.condition)) (pushDown where value.content)
    else if ofType "override" value then
      map (builtins.mapAttrs (_: mkOverride value.priority)) (pushDown where value.content)
    else if ofType "order" value then
      map (builtins.mapAttrs (_: mkOrder value.order)) (pushDown where value.content)
    else if isAttrs value then
      [ value ]
    else
      throw "${where}: must be a set of options, and is ${show value}";

  # The definitions of one option, with every wrapper taken off: a list of { file, value, priority, order }.
  discharge =
    definition:
    let
      inner = definition.value;
      into = more: discharge (definition // { value = inner.content; } // more);
    in
    if ofType "merge" inner then
      concatMap (value: discharge (definition // { inherit value; })) inner.contents
    else if ofType "if" inner then
      if inner.condition then into { } else [ ]
    else if ofType "override" inner then
      into { inherit (inner) priority; }
    else if ofType "order" inner then
      into { inherit (inner) order; }
    else
      [ definition ];

  # Those that count, in their order; [ ] when none does.
  winning =
    definitions:
    let
      bare = concatMap discharge (
        map (
          definition:
          {
            priority = plain;
            order = 1000;
          }
          // definition
        ) definitions
      );
      best = foldl' (least: one: if one.priority < least then one.priority else least) 100000 bare;
    in
    sort (a: b: a.order < b.order) (filter (one: one.priority == best) bare);

  # The value that some definitions give an option of a type.
  mergeAs =
    type: path: definitions:
    let
      wrong = filter (one: !(type.check one.value)) definitions;
      told = concatStringsSep ", " (map (one: "${show one.value} in ${one.file}") wrong);
    in
    if wrong != [ ] then throw "the option ${dots path} must be ${type.description}, and is ${told}" else type.merge path definitions;

  # ---- modules

  partsOfModule = [
    "_class"
    "_file"
    "config"
    "freeformType"
    "imports"
    "options"
  ];

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
      class ? null,
    }:
    let
      arguments = specialArgs // {
        inherit lib;
        options = tree.described;
        config = merged;
      };

      # A module and what it imports, as a list of { file, options, config, freeformType }; a file that is imported twice counts once.
      load =
        seen: module:
        let
          key = if isPath module || isString module then toString module else null;
          read = if key == null then module else import module;
          # One that names its arguments and has no `...` is refused by Nix itself, as with nixpkgs.
          body = if isFunction read then read arguments else read;
          file = body._file or (if key == null then "a module" else baseNameOf key);
          sections = body ? config || body ? options;
          unknown = filter (name: !(elem name partsOfModule)) (attrNames body);
          own = {
            inherit file;
            options = body.options or { };
            freeformType = body.freeformType or null;
            config =
              if !sections then
                removeAttrs body partsOfModule
              else if unknown != [ ] then
                throw "${file}: ${head unknown} must be below config or options"
              else
                body.config or { };
          };
        in
        if class != null && body._class or class != class then
          throw "${file} is a module of ${body._class}, not of ${class}"
        else if key != null && elem key seen.keys then
          seen
        else
          loadAll {
            keys = seen.keys ++ (if key == null then [ ] else [ key ]);
            list = seen.list ++ [ own ];
          } (body.imports or [ ]);
      loadAll = foldl' load;

      loaded =
        (loadAll {
          keys = [ ];
          list = [ ];
        } modules).list;
      declarations = map (one: { inherit (one) file options; }) loaded;
      definitions = map (one: {
        inherit (one) file;
        value = one.config;
      }) loaded;
      freeform = foldl' (found: one: if one.freeformType != null then one.freeformType else found) null loaded;

      options = declare prefix declarations;
      tree = level freeform prefix options definitions;
      merged = tree.values;
    in
    {
      options = tree.described;
      # Unlike what the modules see, this is only had if nothing is defined that isn't an option.
      config = if tree.strangers == [ ] then merged else throw (concatStringsSep "\n" tree.strangers);
    };

  # The declarations of all modules as one tree of options.
  declare =
    path: declarations:
    listToAttrs (
      map (
        name:
        let
          here = filter (one: hasAttr name one.options) declarations;
          below = map (one: {
            inherit (one) file;
            options = one.options.${name};
          }) here;
          leaves = filter (one: ofType "option" one.options) below;
        in
        {
          inherit name;
          value =
            if leaves == [ ] then
              declare (path ++ [ name ]) below
            else if length below == 1 then
              (head below).options
            else
              throw "the option ${dots (path ++ [ name ])} is declared in ${concatStringsSep " and in " (map (one: one.file) below)}";
        }
      ) (unique (concatMap (one: attrNames one.options) declarations))
    );

  # One level of the tree: `values` are those of the options, `strangers` a line for each definition without an option, `described` the
  # options with their definitions, as they are before they are merged.
  level =
    freeform: path: options: definitions:
    let
      sets = concatMap (
        one:
        map (value: {
          inherit (one) file;
          inherit value;
        }) (pushDown "${dots path} in ${one.file}" one.value)
      ) definitions;
      below =
        name:
        map (one: {
          inherit (one) file;
          value = one.value.${name};
        }) (filter (one: hasAttr name one.value) sets);
      unknown = filter (name: !(hasAttr name options)) (unique (concatMap (one: attrNames one.value) sets));

      one =
        name:
        let
          at = path ++ [ name ];
          option = options.${name};
          deeper = level null at option (below name);
        in
        if ofType "option" option then
          {
            values = valueOf at option (below name);
            strangers = [ ];
            described = option // { definitions = map (found: found.value) (winning (below name)); };
          }
        else
          deeper;
      parts = builtins.mapAttrs (name: _: one name) options;
      free = map (name: {
        inherit name;
        value = mergeWinning freeform.element (path ++ [ name ]) (below name);
      }) (filter (name: winning (below name) != [ ]) unknown);
    in
    {
      values = (if freeform == null then { } else listToAttrs free) // builtins.mapAttrs (_: part: part.values) parts;
      described = builtins.mapAttrs (_: part: part.described) parts;
      strangers =
        (
          if freeform != null then
            [ ]
          else
            map (name: "there is no option ${dots (path ++ [ name ])}; it is defined in ${(head (below name)).file}") unknown
        )
        ++ concatMap (name: parts.${name}.strangers) (attrNames parts);
    };

  mergeWinning =
    type: path: definitions:
    mergeAs type path (winning definitions);

  valueOf =
    path: option: definitions:
    let
      standard =
        if option ? default then
          [
            {
              file = "its default";
              value = mkOverride optionDefault option.default;
            }
          ]
        else
          [ ];
      found = winning (definitions ++ standard);
      none = option.type.empty or (throw "the option ${dots path} has no value and no default");
      value = if found == [ ] then none else mergeAs option.type path found;
    in
    (option.apply or (x: x)) value;

  # ---- options

  mkOption = attributes: { _type = "option"; } // attributes;
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };
  mkPackageOption =
    packages: name: more:
    mkOption {
      type = if more.nullable or false then types.nullOr types.package else types.package;
      default = packages.${more.default or name};
      defaultText = {
        _type = "literalExpression";
        text = "${more.pkgsText or "pkgs"}.${more.default or name}";
      };
      description = "The ${name} package to use.${if more ? extraDescription then " ${more.extraDescription}" else ""}";
    };

  # What the options below a tree are, for a table: a list of { name, type, default, example, description }.
  describeOptions =
    path: options:
    concatMap (
      name:
      let
        option = options.${name};
        at = path ++ [ name ];
        text = value: if ofType "literalExpression" value then value.text else toJSON value;
      in
      if !(ofType "option" option) then
        describeOptions at option
      else if !(option.visible or true) then
        [ ]
      else
        [
          {
            name = dots at;
            type = option.type.description;
            default = if option ? defaultText then text option.defaultText else if option ? default then text option.default else null;
            example = if option ? example then text option.example else null;
            description = option.description or (throw "the option ${dots at} has no description");
          }
        ]
        ++ describeOptions at (option.type.inside or { })
    ) (attrNames options);

  # ---- types

  # Definitions must agree.
  agreeing =
    path: definitions:
    let
      first = head definitions;
      others = filter (one: one.value != first.value) definitions;
    in
    if others == [ ] then
      first.value
    else
      throw "the option ${dots path} is ${show first.value} in ${first.file}, and ${show (head others).value} in ${(head others).file}";

  scalar = description: check: {
    inherit description check;
    merge = agreeing;
  };

  isStorePath = value: isAttrs value && value ? outPath;
  between =
    from: to: value:
    builtins.isInt value && value >= from && value <= to;

  types = {
    bool = scalar "a boolean" builtins.isBool;
    int = scalar "an integer" builtins.isInt;
    float = scalar "a floating point number" builtins.isFloat;
    str = scalar "a string" isString // {
      plural = "strings";
    };
    path = scalar "an absolute path" (
      value: isPath value || isStorePath value || (isString value && builtins.substring 0 1 value == "/")
    );
    package = scalar "a package" isStorePath;
    port = scalar "a port (1 to 65535)" (between 0 65535);
    raw = scalar "anything" (_: true) // {
      merge =
        path: definitions:
        if length definitions == 1 then (head definitions).value else throw "the option ${dots path} is defined more than once";
    };
    lines = scalar "lines of text" isString // {
      merge = path: definitions: concatStringsSep "\n" (map (one: one.value) definitions);
    };
    ints = {
      between = from: to: scalar "an integer from ${toString from} to ${toString to}" (between from to);
      unsigned = scalar "an integer, 0 or more" (between 0 9000000000000000000);
    };
    strMatching =
      pattern: scalar "a string matching ${pattern}" (value: isString value && builtins.match pattern value != null);
    enum = values: scalar "one of ${concatStringsSep ", " (map show values)}" (value: elem value values);

    nullOr = element: {
      description = "null or ${element.description}";
      inside = element.inside or { };
      empty = null;
      check = value: value == null || element.check value;
      merge =
        path: definitions:
        let
          nulls = filter (one: one.value == null) definitions;
        in
        if nulls == [ ] then
          mergeAs element path definitions
        else if length nulls == length definitions then
          null
        else
          throw "the option ${dots path} is null in ${(head nulls).file}, and something elsewhere";
    };

    either = a: b: {
      description = "${a.description} or ${b.description}";
      check = value: a.check value || b.check value;
      merge = path: definitions: mergeAs (if all (one: a.check one.value) definitions then a else b) path definitions;
    };
    oneOf = list: foldl' types.either (head list) (builtins.tail list);

    listOf = element: {
      description = "a list of ${element.plural or element.description}";
      empty = [ ];
      check = isList;
      merge =
        path: definitions:
        concatMap (
          one:
          concatLists (
            genList (
              i:
              let
                found = winning [
                  {
                    inherit (one) file;
                    value = builtins.elemAt one.value i;
                  }
                ];
              in
              if found == [ ] then [ ] else [ (mergeAs element (path ++ [ "[${toString (i + 1)}]" ]) found) ]
            ) (length one.value)
          )
        ) definitions;
    };

    attrsOf = element: {
      description = "a set of ${element.plural or element.description}";
      inherit element;
      inside = if element ? inside then { "<name>" = element.inside; } else { };
      empty = { };
      check = value: isAttrs value && !(isStorePath value);
      merge =
        path: definitions:
        let
          below = name: concatMap (one: if hasAttr name one.value then [ (one // { value = one.value.${name}; }) ] else [ ]) definitions;
          names = filter (name: winning (map bare (below name)) != [ ]) (unique (concatMap (one: attrNames one.value) definitions));
        in
        listToAttrs (
          map (name: {
            inherit name;
            value = mergeWinning element (path ++ [ name ]) (map bare (below name));
          }) (sort (a: b: a < b) names)
        );
    };

    submodule = module: {
      description = "a submodule";
      plural = "submodules";
      inside =
        (evalModules {
          modules = [ module ];
          specialArgs.name = "<name>";
        }).options;
      check = value: isAttrs value || isFunction value || isPath value;
      merge =
        path: definitions:
        (evalModules {
          prefix = path;
          specialArgs.name = builtins.elemAt path (length path - 1);
          modules = [
            module
          ]
          ++ map (one: {
            _file = one.file;
            config = one.value;
          }) definitions;
        }).config;
    };
  };

  # Without what `winning` has added, for another turn.
  bare = one: { inherit (one) file value; };

  # ---- the rest

  versionAtLeast = have: want: builtins.compareVersions have want >= 0;

  lib = {
    inherit
      evalModules
      describeOptions
      mkIf
      mkMerge
      mkOrder
      mkOverride
      mkOption
      mkEnableOption
      mkPackageOption
      types
      concatMap
      concatStringsSep
      unique
      versionAtLeast
      ;
    inherit (builtins)
      all
      any
      attrNames
      attrValues
      elem
      filter
      hasAttr
      mapAttrs
      ;
    inherit concatLists;
    fileset = {
      unions = files: files;
      toSource = { root, fileset }: builtins.path { name = "source"; path = root + "/package.json"; };
    };
    mkBefore = mkOrder 500;
    mkAfter = mkOrder 1500;
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    literalExpression = text: {
      _type = "literalExpression";
      inherit text;
    };
    isDerivation = value: isAttrs value && value.type or null == "derivation";
    last = list: builtins.elemAt list (length list - 1);
    hasInfix = infix: text: length (builtins.split (builtins.replaceStrings [ "." "[" "(" ] [ "\\." "\\[" "\\(" ] infix) text) > 1;
    getAttrFromPath = path: set: foldl' (inner: name: inner.${name}) set path;
    setAttrByPath = path: value: if path == [ ] then value else { ${head path} = lib.setAttrByPath (builtins.tail path) value; };
    toList = value: if isList value then value else [ value ];
    count = f: list: length (filter f list);
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    splitString = between: text: filter isString (builtins.split (builtins.replaceStrings [ "." ] [ "\\." ] between) text);
    escapeShellArgs = lib.concatMapStringsSep " " lib.escapeShellArg;
    getBin = package: package;
    optional = condition: one: if condition then [ one ] else [ ];
    optionals = condition: list: if condition then list else [ ];
    optionalString = condition: text: if condition then text else "";
    optionalAttrs = condition: set: if condition then set else { };
    genAttrs = names: f: listToAttrs (map (name: { inherit name; value = f name; }) names);
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    filterAttrs =
      f: set:
      listToAttrs (
        concatMap (name: if f name set.${name} then [ { inherit name; value = set.${name}; } ] else [ ]) (attrNames set)
      );
    recursiveUpdate =
      a: b:
      if !(isAttrs a && isAttrs b) then
        b
      else
        a // builtins.mapAttrs (name: value: if hasAttr name a then lib.recursiveUpdate a.${name} value else value) b;
    hasSuffix = suffix: text: lib.removeSuffix suffix text != text;
    concatMapStringsSep =
      between: f: list:
      concatStringsSep between (map f list);
    removeSuffix =
      suffix: text:
      let
        rest = builtins.stringLength text - builtins.stringLength suffix;
      in
      if rest >= 0 && builtins.substring rest (-1) text == suffix then builtins.substring 0 rest text else text;
    escapeShellArg = text: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";
    assertMsg = condition: message: condition || throw message;
    licenses.mit = {
      spdxId = "MIT";
      free = true;
    };
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
in
lib

# A set as the text of a TOML file. nixpkgs' pkgs.formats.toml makes a file too, but only in a
# build, by a program of its own; here the text is there as soon as the configuration is evaluated,
# so that anybody can look at it and tests can compare it.
let
  inherit (builtins)
    attrNames
    concatStringsSep
    filter
    isAttrs
    isBool
    isInt
    isList
    isString
    map
    match
    toJSON
    typeOf
    ;

  # A JSON string is a basic string of TOML (but for DEL, which nix-lan refuses wherever it stands).
  string = toJSON;

  key = name: if match "[A-Za-z0-9_-]+" name != null then name else string name;

  value =
    it:
    if isString it then
      string it
    else if isBool it || isInt it then
      toJSON it
    else if isList it then
      "[${concatStringsSep ", " (map value it)}]"
    else if isAttrs it then
      "{ ${concatStringsSep ", " (map (name: "${key name} = ${value it.${name}}") (attrNames it))} }"
    else
      throw "nix-lan: config.toml can't hold a value of type ${typeOf it}";

  # First what is no table, then the tables, each below its header. One that holds nothing but
  # tables needs none.
  lines =
    path: set:
    let
      tables = filter (name: isAttrs set.${name}) (attrNames set);
      plain = filter (name: !(isAttrs set.${name})) (attrNames set);
      header = if path == [ ] || (plain == [ ] && tables != [ ]) then [ ] else [ "" "[${concatStringsSep "." (map key path)}]" ];
    in
    header
    ++ map (name: "${key name} = ${value set.${name}}") plain
    ++ builtins.concatLists (map (name: lines (path ++ [ name ]) set.${name}) tables);
in
set: concatStringsSep "\n" (lines [ ] set) + "\n"

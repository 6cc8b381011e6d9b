# Turns a set into the text of a TOML file. nixpkgs' pkgs.formats.toml does so only in a build, with
# a separate program; this text is available at evaluation, where people can look at it and tests
# can compare it.
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

  # A JSON string is a TOML basic string (except for DEL, which nix-lan refuses everywhere).
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

  # First plain values, then tables, each under its header. A table that holds only tables needs
  # none.
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

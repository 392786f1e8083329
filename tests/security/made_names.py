"""Names that a stranger could give a model or a task, or that a model could say."""

HOSTILE = "<img src=x onerror=alert(1)>![pixel](http://evil.example/p.png)[go](javascript:alert(1))|`code`\x1b[31m\u202egnp"
NAMES = (
    HOSTILE,
    "<script>alert(1)</script>",
    "plain | next cell | another\n| row |",
    "x\r\n::set-output name=a::b",
    "::error file=a.py,line=1::all is lost",
    "a,b:c%0A::warning::d",
    "\x1b]0;title\x07\x1b[2J\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "@acme/team please look at #12 https://evil.example",
    "\\input{/etc/passwd} \\immediate\\write18{id}",
    "'; DROP TABLE run; --",
    "\u202eevil\u2066\u200b\x00\x7f",
    "]]></failure><system-out>x</system-out>",
    "~~gone~~ **bold** $x^2$ <!-- hidden -->",
)

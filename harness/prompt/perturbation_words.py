"""Word lists of the perturbations, included here so that prompts never depend on a download.

Names: Greenwald et al. 1998 as listed by Caliskan et al. 2017. Pronouns: Lauscher et al. 2022. Keys: neighbours at distance one on a
QWERTY keyboard. Dialect: frequent spellings after Ziems et al. 2022 (VALUE). Misspellings: frequent ones of English,
chosen by us (HELM's list is read from crfm-helm). Contractions and fillers: HELM's, after Kovatchev et al. 2021 and Laserna et al. 2014.
"""

from __future__ import annotations

from collections.abc import Mapping


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def pairs(text: str) -> dict[str, str]:
    """Parse `word:other` pairs into a dict; `_` is a space."""
    return dict(pair.replace("_", " ").split(":") for pair in words(text))


KEYS: Mapping[str, str] = {
    **{"q": "was", "w": "qesad", "e": "wsdfr", "r": "edfgt", "t": "rfghy", "y": "tghju", "u": "yhjki", "i": "ujklo", "o": "iklp"},
    **{"p": "ol", "a": "qwsz", "s": "weadzx", "d": "erfcxs", "f": "rtgvcd", "g": "tyhbvf", "h": "yujnbg", "j": "uikmnh", "k": "iolmj"},
    **{"l": "opk", "z": "asx", "x": "sdcz", "c": "dfvx", "v": "fgbc", "b": "ghnv", "n": "hjmb", "m": "jkn"},
}

NEGATED = "are could did does do had has have is might must need ought should was were would"
SUBJECTS: Mapping[str, str] = {
    **dict.fromkeys(words("he she it"), "would will is"),
    **dict.fromkeys(words("they we you"), "would will are have"),
    **dict.fromkeys(words("that there"), "would is"),
    **{"i": "would will am have", "how": "did will is", "what": "are is", "when": "is", "where": "did is have", "who": "will is have"},
    **{"why": "is", "could": "have", "might": "have", "must": "have", "should": "have", "would": "have"},
}
SHORT = {"is": "'s", "are": "'re", "am": "'m", "have": "'ve", "will": "'ll", "would": "'d", "did": "'d"}
CONTRACTIONS: Mapping[str, str] = {
    **{f"{verb} not": f"{verb}n't" for verb in words(NEGATED)},
    **{f"{who} {verb}": who + SHORT[verb] for who, verbs in SUBJECTS.items() for verb in words(verbs)},
    **{"cannot": "can't", "shall not": "shan't", "will not": "won't", "how do you": "how'd'y", "madam": "ma'am"},
}
"""Short form by long form, in lower case."""

MISSPELLINGS: Mapping[str, tuple[str, ...]] = {
    right: tuple(wrong.split("/"))
    for right, wrong in pairs(
        "about:abbout/aobut accept:acept access:acess according:acording account:acount achieve:acheive across:accross "
        "actually:actualy address:adress again:agian against:aginst all:al almost:allmost already:allready also:aslo always:allways "
        "although:altough among:amoung and:adn another:anohter answer:anwser appear:apear are:aer around:arround "
        "available:availible/avaliable because:becuase/beacuse become:becomeing before:befoer beginning:begining being:bieng "
        "believe:beleive between:bewteen both:bouth building:biulding business:buisness/bussiness but:btu can:cna careful:carefull "
        "century:centry certain:certian change:chnage children:childern city:ctiy clear:claer come:coem common:comon company:compnay "
        "complete:compleet could:cuold/coudl country:contry day:dya decide:desside definite:definate definitely:definately "
        "describe:discribe development:developement did:ddi different:diffrent difficult:dificult does:deos during:durring each:eahc "
        "early:ealry easily:easyly effect:efect either:eiher end:edn enough:enought environment:enviroment especially:especialy "
        "even:evne event:evnet every:evrey example:exmaple except:exept experience:experiance explain:explane family:famly "
        "favorite:favourit february:febuary few:fwe field:feild finally:finaly find:fidn first:fisrt follow:folow for:fro "
        "foreign:foriegn four:fuor friend:freind from:form/fomr further:futher game:gmae generally:generaly give:giev good:godo "
        "government:goverment/governement great:graet group:gropu guard:gaurd happen:hapen have:ahve having:haveing hear:haer "
        "heart:haert her:hre here:heer high:hihg him:hmi his:hsi history:histroy hour:huor house:hosue how:hwo however:howver "
        "important:improtant/importent in:ni information:infomation interest:intrest interesting:intresting into:itno is:si it:ti "
        "its:ist just:jsut keep:kepe know:konw knowledge:knowlege language:langauge large:lareg later:latter learn:laern leave:laeve "
        "level:leval library:libary life:lief like:liek little:littel live:liev long:logn look:loook made:amde make:amke many:mnay "
        "marriage:marrage may:mya meaning:meanning might:mihgt minute:minuet money:mony month:motnh more:mroe most:msot movie:moive "
        "much:muhc must:msut my:ym name:nmae national:natinal necessary:neccessary/necesary need:nede never:nevre new:nwe next:nxet "
        "night:nihgt not:nto nothing:nothign notice:notise now:nwo number:nubmer occasion:ocasion occur:ocur occurred:occured of:fo "
        "off:of often:offen old:odl on:no once:onec one:oen only:olny open:opne opinion:opnion or:ro original:orignal other:otehr "
        "our:oru out:otu over:ovre own:onw part:aprt people:poeple/peopel perform:preform perhaps:perhasp person:perosn place:palce "
        "play:paly point:piont political:politcal position:postion possible:possable/posible possession:posession power:pwoer "
        "present:presnet president:presidant probably:probaly problem:probelm process:proccess public:pulbic publicly:publically "
        "question:quesiton quite:qutie really:realy/relly reason:raeson receive:recieve recommend:recomend refer:reffer "
        "relevant:relevent religious:religous remember:rember report:reprot require:requier research:reserach result:reslut "
        "right:rihgt said:siad same:smae say:sya scene:sceen school:shcool second:secodn see:ese seem:seme sense:sence "
        "sentence:sentance separate:seperate several:sevral she:hse should:shoudl show:hsow similar:similiar since:sicne small:samll "
        "some:soem something:somthing soon:sooon speech:speach state:staet still:stil story:stroy strange:stange strength:strenght "
        "strong:stong student:studnet success:succes successful:successfull such:shuc surprise:suprise system:sytem take:taek "
        "tell:tlel than:tahn that:taht/tath the:teh/hte their:thier them:htem then:hten there:ther/tehre these:thsee they:tehy "
        "thing:thign think:thikn third:thrid this:tihs those:thsoe though:thuogh thought:thougth three:theer through:throught/thru "
        "time:tiem to:ot today:todya together:togehter tomorrow:tommorow too:to towards:twards truly:truely two:tow under:undre "
        "understand:undersatnd unfortunately:unfortunatly until:untill up:pu usually:usualy very:vrey want:wnat was:wsa water:watre "
        "way:wya we:ew week:wekk weird:wierd well:wel were:wree what:waht/whta when:wehn where:whre whether:wether which:whcih/wich "
        "while:whiel who:hwo whole:hwole will:wlil with:wiht within:withing without:wihtout woman:womman work:wrok world:wrold "
        "would:woudl write:wriet written:writen year:yaer yesterday:yesturday yet:eyt you:yuo young:yuong your:yoru"
    ).items()
}

DIALECT: Mapping[str, str] = pairs(
    "about:bout after:afta another:anotha are_not:ain't aren't:ain't because:cuz before:befo better:betta brother:brotha "
    "brothers:brothas coming:comin didn't:ain't doing:doin doesn't:don't every:erry everybody:errybody everything:errything "
    "father:fatha feeling:feelin getting:gettin girl:gurl girls:gurls going:goin hasn't:ain't haven't:ain't having:havin "
    "isn't:ain't is_not:ain't just:jus looking:lookin making:makin more:mo mother:motha never:neva nothing:nuthin other:otha "
    "over:ova playing:playin remember:rememba saying:sayin sister:sista sisters:sistas something:sumthin sure:sho talking:talkin "
    "that:dat the:da their:dey them:dem then:den there:dere these:dese they:dey thing:thang things:thangs thinking:thinkin "
    "this:dis those:dose though:doe trying:tryna wasn't:wadn't what:wat with:wit without:witout working:workin you:ya your:yo "
    "you're:yo yours:yos"
)
"""Standard American English to African American Vernacular English."""

PRONOUNS: Mapping[str, str] = {"he": "she", "him": "her", "his": "her", "himself": "herself"}
"""Male to female, in HELM's order. `his` is mapped as a determiner, its first reading."""

NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "male": (
        words(
            "adam chip harry josh roger alan frank ian justin ryan andrew fred jack matthew stephen brad greg jed paul todd brandon hank "
            "jonathan peter wilbur"
        ),
        words(
            "alonzo jamel lerone percell theo alphonse jerome leroy rasaan torrance darnell lamar lionel rashaun tyree deion lamont malik "
            "terrence tyrone everol lavon marcellus terryl wardell"
        ),
    ),
    "female": (
        words(
            "amanda courtney heather melanie sara amber crystal katie meredith shannon betsy donna kristin nancy stephanie bobbie-sue "
            "ellen lauren peggy sue-ellen colleen emily megan rachel wendy"
        ),
        words(
            "aiesha lashelle nichelle shereen temeka ebony latisha shaniqua tameisha teretha jasmine latonya shanise tanisha tia lakisha "
            "latoya sharise tashika yolanda lashandra malika shavonn tawanda yvette"
        ),
    ),
}
"""By gender: first names typical of white Americans, and first names typical of black Americans."""

FILLERS = (
    "I think",
    "I believe",
    "I mean",
    "I guess",
    "that is",
    "I assume",
    "I feel",
    "In my opinion",
    "I would say",
    *("maybe", "perhaps", "probably", "possibly", "most likely", "uhm", "umm", "ahh", "err"),
    *("actually", "obviously", "naturally", "like", "you know"),
)
